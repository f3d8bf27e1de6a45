// Images: decoded, upright, resized as the model's preprocessing says.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace keras_featx {

// Red, green and blue, 8 bits each, row by row.
struct Image {
  int height = 0;
  int width = 0;
  std::vector<uint8_t> pixels;
};

using Colour = std::array<float, 3>;

// How images become the model's input; see mobile/README.md.
struct Preprocess {
  enum class Resize { kSquash, kPad, kCrop };
  Resize resize = Resize::kSquash;
  int resize_short = 0;  // with kCrop; 0 is none
  float pad_value = 0;
  bool antialias = false;
  std::optional<Colour> background;
};

// Decoded sizes beyond are refused by the header.
constexpr size_t kMostPixels = 100'000'000;

// Decodes a JPEG or PNG, turned upright by EXIF. What is not opaque keeps its colour, or is laid
// over the background. `name` is what messages call it. Throws Error.
Image decode(const uint8_t* data, size_t size, const std::optional<Colour>& background,
             const std::string& name);

// Turns an image by an EXIF orientation, 1 to 8.
Image upright(Image image, int orientation);

// Resizes to what the network takes, bilinear, rounded half to even.
Image prepare(const Image& image, int height, int width, const Preprocess& how);

}  // namespace keras_featx
