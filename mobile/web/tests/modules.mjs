// The page's modules by themselves, for Node and for pages of the tests.
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'vite';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));
export const DATA = join(ROOT, 'tests/data');
export const OUT = join(ROOT, 'tests/out');

/** Builds modules of `src` into a folder and returns its path. */
export async function modules(folder, ...names) {
  const outDir = join(OUT, folder);
  await build({
    configFile: false,
    root: ROOT,
    publicDir: false,
    logLevel: 'error',
    build: {
      lib: {
        entry: Object.fromEntries(names.map((name) => [name, join(ROOT, `src/${name}.ts`)])),
        formats: ['es'],
        fileName: (_, name) => `${name}.mjs`,
      },
      outDir,
      emptyOutDir: true,
    },
  });
  return outDir;
}

/** A stored entry in a ZIP archive behind some bytes, as in a `.tflite` of keras-featx export. */
export function archive(front, name, body, { crc32, method = 0 }) {
  const title = Buffer.from(name);
  const fields = Buffer.alloc(26);
  fields.writeUInt16LE(20, 0);
  fields.writeUInt16LE(method, 4);
  fields.writeUInt32LE(crc32(body), 10);
  fields.writeUInt32LE(body.length, 14);
  fields.writeUInt32LE(body.length, 18);
  fields.writeUInt16LE(title.length, 22);
  const local = Buffer.concat([Buffer.from('PK\x03\x04'), fields, title, body]);
  const place = Buffer.alloc(14);
  place.writeUInt32LE(front.length, 10);
  const entry = Buffer.concat([Buffer.from('PK\x01\x02\x14\0'), fields, place, title]);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(1, 4);
  end.writeUInt16LE(1, 6);
  end.writeUInt32LE(entry.length, 8);
  end.writeUInt32LE(front.length + local.length, 12);
  return Buffer.concat([front, local, entry, Buffer.from('PK\x05\x06'), end]);
}
