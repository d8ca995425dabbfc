// Where programs under test are, as tests/support/programs.sh has it. They are not built here.

import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

const ROOT = new URL('../../', import.meta.url).pathname;

// Where Cargo puts things, and screenshots with them.
export const TARGET = resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target');

export function program(name) {
  const path = join(process.env.TIDEGATE_BIN_DIR ?? join(TARGET, 'debug'), name);
  if (!existsSync(path)) throw new Error(`${path} is not there: build it with \`cargo build --package ${name}\``);
  return path;
}
