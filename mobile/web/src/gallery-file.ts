import { crc32 } from './crc32';
import { Refused } from './refused';

/** What a gallery file holds; mobile/GALLERY.md has its layout. */
export interface GalleryFile {
  /** The identity of each item. */
  names: string[];
  /** Float16 numbers of all items, by their bits. */
  halves: Uint16Array;
  size: number;
  fingerprint: string;
  threshold: number | null;
  /** Of a file in int8: a vector is about `codes * scale`. */
  codes?: Int8Array;
  scales?: Float32Array;
}

const MAGIC = 'KFXGAL\r\n';
const HEADER = 128;
const ALIGNED = 64;

const filled = (length: number) => Math.ceil(length / ALIGNED) * ALIGNED;

/** Reads a gallery file; `name` is what messages call it. */
export function readGallery(data: Uint8Array, name: string): GalleryFile {
  const refuse = (what: string): never => {
    throw new Refused(`${name}: ${what}`);
  };
  if (String.fromCharCode(...data.subarray(0, 8)) !== MAGIC) {
    refuse('expected a gallery file, got another kind of file');
  }
  if (data.length < HEADER) refuse(`expected at least ${HEADER} bytes, got ${data.length}`);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const number = (at: number) => view.getUint32(at, true);
  if (number(8) !== 1) refuse(`expected a gallery file of version 1, got ${number(8)}`);
  if (number(76) !== crc32(data.subarray(0, 76))) {
    refuse('damaged: the checksum of its header is another');
  }
  const [kind, size, identities, named] = [number(12), number(16), number(20), number(68)];
  const items = number(24) + number(28) * 2 ** 32;
  if (kind > 1 || size === 0 || named < 4 * (identities + 1)) {
    refuse('damaged: its header holds impossible numbers');
  }
  const lengths = [4 * items, named, ...(kind ? [4 * items, size * items] : []), 2 * size * items];
  const places = [HEADER];
  for (const length of lengths) places.push(places.at(-1)! + filled(length));
  const whole = places.at(-1)!;
  if (whole !== data.length) {
    const shown = (bytes: number) => bytes.toLocaleString('en-US');
    refuse(`expected ${shown(whole)} bytes, got ${shown(data.length)}`);
  }
  if (number(72) !== crc32(data.subarray(HEADER))) {
    refuse('damaged: the checksum of its contents is another');
  }
  const texts =
    readNames(data.subarray(places[1]!, places[1]! + named), identities) ??
    refuse('damaged: the names of its identities');
  const names = Array.from({ length: items }, (_, i) => {
    const label = number(HEADER + 4 * i);
    return texts[label] ?? refuse(`damaged: an item names identity ${label}`);
  });
  const [codesAt, halvesAt] = [places[3]!, places[lengths.length - 1]!];
  const halves = Uint16Array.from({ length: size * items }, (_, i) => view.getUint16(halvesAt + 2 * i, true));
  const digits = [...data.subarray(32, 64)].map((byte) => byte.toString(16).padStart(2, '0'));
  const threshold = view.getFloat32(64, true);
  return {
    names,
    halves,
    size,
    fingerprint: digits.join(''),
    threshold: Number.isNaN(threshold) ? null : threshold,
    ...(kind && {
      codes: new Int8Array(data.slice(codesAt, codesAt + size * items).buffer),
      scales: Float32Array.from({ length: items }, (_, i) => view.getFloat32(places[2]! + 4 * i, true)),
    }),
  };
}

function readNames(data: Uint8Array, count: number): string[] | undefined {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const text = data.subarray(4 * (count + 1));
  const names = [];
  let before = view.getUint32(0, true);
  if (before !== 0) return undefined;
  for (let i = 1; i <= count; i += 1) {
    const end = view.getUint32(4 * i, true);
    if (end < before || end > text.length) return undefined;
    try {
      names.push(decoder.decode(text.subarray(before, end)));
    } catch {
      return undefined;
    }
    before = end;
  }
  return before === text.length ? names : undefined;
}

/** Writes a gallery file in float16. */
export function writeGallery(gallery: GalleryFile): Uint8Array<ArrayBuffer> {
  const identities = [...new Set(gallery.names)].sort(byCharacters);
  const labels = new Map(identities.map((name, i) => [name, i]));
  const texts = identities.map((name) => new TextEncoder().encode(name));
  const named = 4 * (texts.length + 1) + texts.reduce((sum, text) => sum + text.length, 0);
  const items = gallery.names.length;
  const namesAt = HEADER + filled(4 * items);
  const halvesAt = namesAt + filled(named);
  const data = new Uint8Array(halvesAt + filled(2 * gallery.halves.length));
  const view = new DataView(data.buffer);
  const put = (at: number, value: number) => view.setUint32(at, value, true);
  gallery.names.forEach((name, i) => put(HEADER + 4 * i, labels.get(name)!));
  let end = 0;
  texts.forEach((text, i) => {
    data.set(text, namesAt + 4 * (texts.length + 1) + end);
    end += text.length;
    put(namesAt + 4 * (i + 1), end);
  });
  gallery.halves.forEach((half, i) => view.setUint16(halvesAt + 2 * i, half, true));
  data.set(new TextEncoder().encode(MAGIC));
  [1, 0, gallery.size, texts.length, items].forEach((value, i) => put(8 + 4 * i, value));
  data.set(gallery.fingerprint.match(/../g)!.map((digits) => parseInt(digits, 16)), 32);
  view.setFloat32(64, gallery.threshold ?? NaN, true);
  put(68, named);
  put(72, crc32(data.subarray(HEADER)));
  put(76, crc32(data.subarray(0, 76)));
  return data;
}

// As Python sorts, where a character beyond 16 bits comes last.
function byCharacters(a: string, b: string): number {
  const [some, others] = [Array.from(a), Array.from(b)];
  const at = some.findIndex((character, i) => character !== others[i]);
  if (at < 0) return some.length - others.length;
  return (some[at]!.codePointAt(0) ?? 0) - (others[at]?.codePointAt(0) ?? -1);
}
