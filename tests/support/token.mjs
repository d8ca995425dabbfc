// JSON Web Tokens as an application would make them.

import { createHmac } from 'node:crypto';

export const SECRET = 'a secret of at least thirty-two bytes';

const base64url = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

export function token(claims, { algorithm = 'HS256', secret = SECRET } = {}) {
  const signed = `${base64url({ alg: algorithm, typ: 'JWT' })}.${base64url(claims)}`;
  const signature = createHmac(algorithm.replace('HS', 'sha'), secret).update(signed).digest('base64url');
  return `${signed}.${signature}`;
}

// Returns the Unix time this many seconds from now.
export const inSeconds = (seconds) => Math.floor(Date.now() / 1000) + seconds;
