// Finds the programs under test in the same places as tests/support/programs.sh, without building them.

import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

const ROOT = new URL('../../', import.meta.url).pathname;

// Cargo's target folder, which also takes screenshots.
export const TARGET = resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target');

export function program(name) {
  const path = join(process.env.TIDEGATE_BIN_DIR ?? join(TARGET, 'debug'), name);
  if (!existsSync(path)) throw new Error(`${path} is not there: build it with \`cargo build --package ${name}\``);
  return path;
}
