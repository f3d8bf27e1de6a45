import { fromHalf } from './half';
import { halfToEven } from './rounding';

/** The embeddings of a gallery; mobile/GALLERY.md says how they are searched. */
export interface Table {
  size: number;
  count: number;
  /** Float16 numbers by their bits, `count * size`. */
  halves: Uint16Array;
  /** A vector is about `codes * scale`; both or neither. */
  codes?: Int8Array;
  scales?: Float32Array;
  /** The halves as float32, where there are no codes. */
  floats?: Float32Array;
}

export interface Found {
  row: number;
  similarity: number;
}

// Of a search by codes, for each neighbour wanted.
const CANDIDATES = 4;

/** Makes a table ready to be searched. */
export function table(halves: Uint16Array, size: number, codes?: Int8Array, scales?: Float32Array): Table {
  const made = { size, count: halves.length / size, halves };
  return codes && scales ? { ...made, codes, scales } : { ...made, floats: Float32Array.from(halves, fromHalf) };
}

/** The nearest rows, best first, ties to the lowest. */
export function nearest(query: Float32Array, { size, count, halves, codes, scales, floats }: Table, k: number): Found[] {
  const rows = Array.from({ length: count }, (_, row) => row);
  if (floats) return largest(rows, k, (row) => floatProduct(query, floats, row * size));
  const coarse = (row: number) => scales![row]! * codeProduct(query, codes!, row * size);
  const some = largest(rows, CANDIDATES * k, coarse).map(({ row }) => row);
  const exact = (row: number) =>
    floatProduct(query, Float32Array.from(halves.subarray(row * size, (row + 1) * size), fromHalf), 0);
  return largest(some.sort((a, b) => a - b), k, exact);
}

function largest(rows: number[], k: number, score: (row: number) => number): Found[] {
  const best: Found[] = [];
  for (const row of rows) {
    const similarity = score(row);
    if (best.length === k && !(similarity > best[k - 1]!.similarity)) continue;
    let place = best.length;
    while (place > 0 && best[place - 1]!.similarity < similarity) place -= 1;
    best.splice(place, 0, { row, similarity });
    if (best.length > k) best.pop();
  }
  return best;
}

// Two functions of one text, as a browser makes each fast for one kind of array.
function floatProduct(query: Float32Array, vectors: Float32Array, start: number): number {
  let sum = 0;
  for (let i = 0; i < query.length; i += 1) sum += query[i]! * vectors[start + i]!;
  return sum;
}

function codeProduct(query: Float32Array, codes: Int8Array, start: number): number {
  let sum = 0;
  for (let i = 0; i < query.length; i += 1) sum += query[i]! * codes[start + i]!;
  return sum;
}

/** The codes of a vector, and what they are to be multiplied by. */
export function encode(vector: Float32Array): { codes: Int8Array; scale: number } {
  const scale = Math.fround(vector.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127);
  return { codes: Int8Array.from(vector, (value) => halfToEven(Math.fround(value / scale))), scale };
}
