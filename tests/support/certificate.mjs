// Creates a certificate for a test, for `localhost` and 127.0.0.1.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

// Returns its files (the certificate, and certificate and key in one file for HAProxy), and the configuration of a gateway with
// it. The files are removed when the test `t` ends.
export function makeCertificate(t) {
  const directory = mkdtempSync(join(tmpdir(), 'tidegate-certificate-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const [certificate, key, both] = ['certificate.pem', 'key.pem', 'both.pem'].map((name) => join(directory, name));
  execFileSync('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=localhost',
    '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', key, '-out', certificate,
  ], { stdio: ['ignore', 'ignore', 'pipe'] });
  writeFileSync(both, readFileSync(certificate, 'utf8') + readFileSync(key, 'utf8'));
  const config = `
[tls]
certificate_file = "${certificate}"
key_file = "${key}"
`;
  return { certificate, both, config, authority: readFileSync(certificate) };
}
