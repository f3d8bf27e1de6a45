import type { GalleryFile } from './gallery-file';
import { toHalf } from './half';
import { encode, nearest, type Table, table } from './search';
import { addItems, type Item, itemsOf, removeItems } from './store';

export interface Match {
  item: Item;
  similarity: number;
}

/** The items of one model: kept in the browser's database, searched in memory. */
export class Gallery {
  private items: Item[] = [];
  private table: Table;

  private constructor(
    readonly fingerprint: string,
    readonly size: number,
  ) {
    this.table = table(new Uint16Array(), size);
  }

  static async open(fingerprint: string, size: number): Promise<Gallery> {
    const gallery = new Gallery(fingerprint, size);
    gallery.set(await itemsOf(fingerprint));
    return gallery;
  }

  get count(): number {
    return this.items.length;
  }

  /** How many items each identity has, by name. */
  counts(): [string, number][] {
    const counts = new Map<string, number>();
    for (const { identity } of this.items) counts.set(identity, (counts.get(identity) ?? 0) + 1);
    return [...counts].sort(([a], [b]) => a.localeCompare(b));
  }

  /** The nearest items, best first, ties to the one that was added first. */
  search(query: Float32Array, k: number): Match[] {
    const found = nearest(query, this.table, k);
    return found.map(({ row, similarity }) => ({ item: this.items[row]!, similarity }));
  }

  async add(identity: string, embedding: Float32Array, picture: Blob): Promise<void> {
    await this.append([
      {
        identity,
        fingerprint: this.fingerprint,
        halves: Uint16Array.from(embedding, toHalf),
        ...(this.table.codes && encode(embedding)),
        picture,
      },
    ]);
  }

  /** Adds what a file of this model holds and is not yet here; returns how many that is. */
  async take({ names, halves, codes, scales }: GalleryFile): Promise<number> {
    const key = (identity: string, vector: Uint16Array) => `${vector.join()} ${identity}`;
    const known = new Set(this.items.map((item) => key(item.identity, item.halves)));
    const part = <T extends Uint16Array | Int8Array>(array: T, i: number) =>
      array.slice(i * this.size, (i + 1) * this.size) as T;
    const items = names.map((identity, i) => ({
      identity,
      fingerprint: this.fingerprint,
      halves: part(halves, i),
      ...(codes && scales && { codes: part(codes, i), scale: scales[i]! }),
    }));
    const fresh = items.filter((item) => !known.has(key(item.identity, item.halves)));
    await this.append(fresh);
    return fresh.length;
  }

  async remove(identity: string): Promise<void> {
    const gone = this.items.filter((item) => item.identity === identity);
    await removeItems(gone.map((item) => item.id!));
    this.set(this.items.filter((item) => item.identity !== identity));
  }

  /** What a gallery file of all items holds. */
  file(threshold: number): GalleryFile {
    const names = this.items.map((item) => item.identity);
    const { size, halves } = this.table;
    return { names, halves, size, fingerprint: this.fingerprint, threshold };
  }

  private async append(items: Item[]): Promise<void> {
    await addItems(items);
    this.set([...this.items, ...items]);
  }

  private set(items: Item[]): void {
    this.items = items;
    const halves = new Uint16Array(items.length * this.size);
    items.forEach((item, i) => halves.set(item.halves, i * this.size));
    // By codes where all have some: those of a file in int8, and what was added to them.
    if (!items.length || items.some((item) => !item.codes)) {
      this.table = table(halves, this.size);
      return;
    }
    const codes = new Int8Array(halves.length);
    items.forEach((item, i) => codes.set(item.codes!, i * this.size));
    this.table = table(halves, this.size, codes, Float32Array.from(items, (item) => item.scale!));
  }
}
