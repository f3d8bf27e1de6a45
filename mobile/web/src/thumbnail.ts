import { type Pixels, prepare } from './resize';

const SIDE = 96;
const HOW = { resize: 'crop', resize_short: null, pad_value: 0, antialias: true, background: null } as const;

/** The middle of a picture, small. */
export function shrink(image: Pixels): Pixels {
  return prepare(image, SIDE, SIDE, HOW);
}

/** A file of it. */
export function encoded({ height, width, data }: Pixels): Promise<Blob> {
  const shown = new ImageData(width, height);
  shown.data.fill(255);
  for (let i = 0; i < height * width; i += 1) shown.data.set(data.subarray(3 * i, 3 * i + 3), 4 * i);
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext('2d')!.putImageData(shown, 0, 0);
  return canvas.convertToBlob({ type: 'image/png' });
}
