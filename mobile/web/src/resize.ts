import type { Preprocess } from './facts';
import { halfToEven } from './rounding';

/** Red, green and blue, 8 bits each, row by row. */
export interface Pixels {
  height: number;
  width: number;
  data: Uint8Array<ArrayBuffer>;
}

interface Size {
  height: number;
  width: number;
}

/** Where a part begins, and its size. */
interface Part extends Size {
  top: number;
  left: number;
}

type Scaled = (image: Pixels, whole: Size, part: Part) => Pixels;

const f = Math.fround;

/** Resizes to what the network takes, rounded half to even, as the model's preprocessing says. */
export function prepare(image: Pixels, height: number, width: number, how: Preprocess): Pixels {
  const scaled = how.antialias ? averaged : linear;
  const wanted = { height, width };
  const all = { top: 0, left: 0, ...wanted };
  if (how.resize === 'squash') return scaled(image, wanted, all);
  if (how.resize === 'pad') return padded(image, wanted, how.pad_value, scaled);
  if (how.resize_short === null) return scaled(cut(image, partOfAspect(image, wanted)), wanted, all);
  const factor = how.resize_short / Math.min(image.height, image.width);
  const whole = { height: halfToEven(image.height * factor), width: halfToEven(image.width * factor) };
  // Only what stays is computed: of an image 1 pixel high, the rest would be huge.
  return scaled(image, whole, centre(whole, wanted));
}

/** The largest size with the aspect ratio of another. */
function partOfAspect(image: Size, wanted: Size): Part {
  const factor = Math.min(image.height / wanted.height, image.width / wanted.width);
  const side = (length: number, most: number) => Math.min(Math.max(halfToEven(length * factor), 1), most);
  const height = side(wanted.height, image.height);
  return centre(image, { height, width: side(wanted.width, image.width) });
}

function padded(image: Pixels, wanted: Size, value: number, scaled: Scaled): Pixels {
  const factor = Math.min(wanted.height / image.height, wanted.width / image.width);
  const side = (length: number, most: number) => Math.min(Math.max(halfToEven(length * factor), 1), most);
  const size = { height: side(image.height, wanted.height), width: side(image.width, wanted.width) };
  const inner = scaled(image, size, { top: 0, left: 0, ...size });
  const { top, left } = centre(wanted, size);
  const data = new Uint8Array(3 * wanted.height * wanted.width).fill(halfToEven(value));
  for (let y = 0; y < size.height; y += 1) {
    const row = inner.data.subarray(3 * size.width * y, 3 * size.width * (y + 1));
    data.set(row, 3 * (wanted.width * (top + y) + left));
  }
  return { ...wanted, data };
}

function centre(whole: Size, { height, width }: Size): Part {
  const [top, left] = [Math.floor((whole.height - height) / 2), Math.floor((whole.width - width) / 2)];
  return { top, left, height, width };
}

function cut(image: Pixels, { top, left, height, width }: Part): Pixels {
  const data = new Uint8Array(3 * height * width);
  for (let y = 0; y < height; y += 1) {
    const start = 3 * (image.width * (top + y) + left);
    data.set(image.data.subarray(start, start + 3 * width), 3 * width * y);
  }
  return { height, width, data };
}

/** Bilinear, as TensorFlow computes it in float32: the very pixels of training. */
function linear(image: Pixels, whole: Size, { top, left, height, width }: Part): Pixels {
  const down = between(whole.height, image.height, top, height);
  const across = between(whole.width, image.width, left, width);
  const data = new Uint8Array(3 * height * width);
  const upper = new Float32Array(3 * width);
  const lower = new Float32Array(3 * width);
  const fill = (into: Float32Array, row: number) => {
    const start = 3 * image.width * row;
    for (let x = 0; x < width; x += 1) {
      const [from, to] = [start + 3 * across.first[x]!, start + 3 * across.last[x]!];
      const share = across.share[x]!;
      for (let c = 0; c < 3; c += 1) {
        const value = image.data[from + c]!;
        into[3 * x + c] = value + f((image.data[to + c]! - value) * share);
      }
    }
  };
  for (let y = 0; y < height; y += 1) {
    fill(upper, down.first[y]!);
    fill(lower, down.last[y]!);
    const share = down.share[y]!;
    for (let i = 0; i < 3 * width; i += 1) {
      const value = upper[i]!;
      data[3 * width * y + i] = halfToEven(f(value + f(f(lower[i]! - value) * share)));
    }
  }
  return { height, width, data };
}

/** Between which two of `length` pixels each of `count` places lies, and where; from one of them on. */
function between(count: number, length: number, start: number, number: number) {
  const first = new Int32Array(number);
  const last = new Int32Array(number);
  const share = new Float32Array(number);
  const scale = f(length / count);
  for (let i = 0; i < number; i += 1) {
    const place = f(f(f(start + i + 0.5) * scale) - 0.5);
    const below = Math.floor(place);
    first[i] = Math.max(below, 0);
    last[i] = Math.min(Math.ceil(place), length - 1);
    share[i] = place - below;
  }
  return { first, last, share };
}

/** Bilinear with antialias: each place averages over all pixels near it, by a triangle. */
function averaged(image: Pixels, whole: Size, { top, left, height, width }: Part): Pixels {
  const down = triangles(whole.height, image.height, top, height);
  const across = triangles(whole.width, image.width, left, width);
  const data = new Uint8Array(3 * height * width);
  const tall = new Float32Array(3 * image.width);
  down.forEach((rows, y) => {
    tall.fill(0);
    rows.weights.forEach((weight, j) => {
      const start = 3 * image.width * (rows.first + j);
      for (let i = 0; i < tall.length; i += 1) tall[i]! += f(weight * image.data[start + i]!);
    });
    across.forEach(({ first, weights }, x) => {
      for (let c = 0; c < 3; c += 1) {
        let sum = 0;
        for (let j = 0; j < weights.length; j += 1) {
          sum = f(sum + f(weights[j]! * tall[3 * (first + j) + c]!));
        }
        data[3 * (width * y + x) + c] = Math.min(halfToEven(sum), 255);
      }
    });
  });
  return { height, width, data };
}

/** The pixels that each place averages over, and their weights. */
function triangles(count: number, length: number, start: number, number: number) {
  const inverse = f(1 / f(count / length));
  const reach = Math.max(inverse, 1);
  const inside = (place: number) => Math.min(Math.max(place, 0), length - 1);
  return Array.from({ length: number }, (_, i) => {
    const place = f(f(start + i + 0.5) * inverse);
    const first = inside(Math.ceil(f(f(place - reach) - 0.5)));
    const last = inside(Math.floor(f(f(place + reach) - 0.5)));
    const weights = new Float32Array(last - first + 1);
    let sum = 0;
    for (let j = first; j <= last; j += 1) {
      const weight = f(Math.max(0, 1 - Math.abs(f(f(f(j + 0.5) - place) * f(1 / reach)))));
      weights[j - first] = weight;
      sum = f(sum + weight);
    }
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}
