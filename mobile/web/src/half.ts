import { halfToEven } from './rounding';

const one = new DataView(new ArrayBuffer(4));

/** The float32 of a float16 given by its 16 bits; for finite numbers. */
export function fromHalf(bits: number): number {
  // The exponents of float16 are 112 less than those of float32.
  one.setUint32(0, (bits & 0x7fff) << 13);
  const magnitude = one.getFloat32(0) * 2 ** 112;
  return bits & 0x8000 ? -magnitude : magnitude;
}

/** The 16 bits of the nearest float16, of a half the even one; for numbers within its range. */
export function toHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude < 2 ** -14) return sign | halfToEven(magnitude * 2 ** 24);
  one.setFloat32(0, magnitude * 2 ** -112);
  return sign | halfToEven(one.getUint32(0) / 2 ** 13);
}
