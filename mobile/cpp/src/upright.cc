// Turning by EXIF; apart from decoding, which Android does by itself.
#include <algorithm>

#include "keras_featx/image.h"

namespace keras_featx {

Image upright(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  const bool swapped = orientation >= 5;
  const int height = swapped ? image.width : image.height;
  const int width = swapped ? image.height : image.width;
  Image result{height, width, std::vector<uint8_t>(image.pixels.size())};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      // Where the stored picture has what is seen at (y, x).
      int down = swapped ? x : y, right = swapped ? y : x;
      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) {
        right = image.width - 1 - right;
      }
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) {
        down = image.height - 1 - down;
      }
      std::copy_n(&image.pixels[3 * (size_t(image.width) * down + right)], 3,
                  &result.pixels[3 * (size_t(width) * y + x)]);
    }
  }
  return result;
}

}  // namespace keras_featx
