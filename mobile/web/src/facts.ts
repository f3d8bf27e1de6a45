import { crc32 } from './crc32';
import { Refused } from './refused';

/** How images become a model's input; mobile/README.md has all of it. */
export interface Preprocess {
  resize: 'squash' | 'pad' | 'crop';
  resize_short: number | null;
  pad_value: number;
  antialias: boolean;
  background: [number, number, number] | null;
}

/** What a model says of itself. */
export interface Facts {
  fingerprint: string;
  preprocess: Preprocess;
}

const FACTS = 'keras_featx.json';
// Of a ZIP archive: the first bytes of its records, and how long they are without what varies.
const [END, END_BYTES] = [0x06054b50, 22];
const [ENTRY, ENTRY_BYTES] = [0x02014b50, 46];
const [LOCAL, LOCAL_BYTES] = [0x04034b50, 30];

/** Reads what a model says of itself; `name` is what messages call it. */
export function readFacts(file: Uint8Array, name: string): Facts {
  const facts = parse(findEntry(file, FACTS));
  const how = facts?.preprocess;
  if (facts?.format !== 1 || !/^[0-9a-f]{64}$/.test(facts.fingerprint) || !isPreprocess(how)) {
    throw new Refused(`${name}: expected a .tflite of keras-featx export`);
  }
  const { interpolation, backend, reduced_decoding: reduced } = how;
  if (interpolation !== 'bilinear' || backend !== 'tensorflow' || reduced !== false) {
    throw new Refused(
      `${name}: expected a preprocessing of bilinear, tensorflow, without reduced_decoding, got ` +
        `${interpolation}, ${backend}, ${reduced ? 'with' : 'without'} reduced_decoding`,
    );
  }
  return { fingerprint: facts.fingerprint, preprocess: how };
}

function parse(text: Uint8Array | undefined) {
  try {
    return text && JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(text));
  } catch {
    return undefined;
  }
}

function isPreprocess(how: any): how is Preprocess & Record<string, unknown> {
  const isLevel = (value: unknown) => typeof value === 'number' && value >= 0 && value <= 255;
  return (
    ['squash', 'pad', 'crop'].includes(how?.resize) &&
    (how.resize_short === null || (Number.isInteger(how.resize_short) && how.resize_short > 0)) &&
    isLevel(how.pad_value) &&
    typeof how.antialias === 'boolean' &&
    (how.background === null ||
      (Array.isArray(how.background) && how.background.length === 3 && how.background.every(isLevel)))
  );
}

/** A stored entry of the ZIP archive that ends a file; nothing if it is not there or damaged. */
function findEntry(file: Uint8Array, name: string): Uint8Array | undefined {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const [short, long] = [(at: number) => view.getUint16(at, true), (at: number) => view.getUint32(at, true)];
  const earliest = Math.max(0, file.length - END_BYTES - 0xffff);
  let end = file.length - END_BYTES;
  while (end >= earliest && long(end) !== END) end -= 1;
  if (end < earliest) return undefined;
  let at = end - long(end + 12);
  // Where the model lies in front of the archive, its places may be counted from either start.
  const moved = at - long(end + 16);
  if (at < 0 || moved < 0) return undefined;
  for (let left = short(end + 10); left > 0; left -= 1) {
    if (at + ENTRY_BYTES > end || long(at) !== ENTRY) return undefined;
    const named = file.subarray(at + ENTRY_BYTES, at + ENTRY_BYTES + short(at + 28));
    if (new TextDecoder().decode(named) === name) {
      const local = long(at + 42) + moved;
      const isStored = short(at + 10) === 0;
      if (!isStored || local + LOCAL_BYTES > end || long(local) !== LOCAL) return undefined;
      const start = local + LOCAL_BYTES + short(local + 26) + short(local + 28);
      if (start + long(at + 20) > end) return undefined;
      const found = file.subarray(start, start + long(at + 20));
      return crc32(found) === long(at + 16) ? found : undefined;
    }
    at += ENTRY_BYTES + short(at + 28) + short(at + 30) + short(at + 32);
  }
  return undefined;
}
