// Bilinear as TensorFlow computes it, in float32. Compiled without fused multiply-adds, so that
// the pixels are the very ones of training.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "keras_featx/image.h"

namespace keras_featx {
namespace {

struct Size {
  int height, width;
};

uint8_t rounded(float value) {
  return static_cast<uint8_t>(std::min(255.0f, std::max(0.0f, std::nearbyintf(value))));
}

int rounded(double value) { return static_cast<int>(std::nearbyint(value)); }

// Between which two pixels each place lies, and where.
struct Between {
  std::vector<int> first, last;
  std::vector<float> share;
};

Between between(int count, int length) {
  Between found;
  const float scale = static_cast<float>(length) / static_cast<float>(count);
  for (int i = 0; i < count; ++i) {
    const float place = (static_cast<float>(i) + 0.5f) * scale - 0.5f;
    const float below = std::floor(place);
    found.first.push_back(static_cast<int>(std::max(below, 0.0f)));
    found.last.push_back(std::min(static_cast<int>(std::ceil(place)), length - 1));
    found.share.push_back(place - below);
  }
  return found;
}

Image linear(const Image& image, Size size) {
  const Between down = between(size.height, image.height), across = between(size.width, image.width);
  Image result{size.height, size.width, std::vector<uint8_t>(size_t{3} * size.height * size.width)};
  std::vector<float> upper(3 * size.width), lower(3 * size.width);
  const auto row = [&](int number, std::vector<float>& into) {
    const uint8_t* pixels = image.pixels.data() + size_t{3} * image.width * number;
    for (int x = 0; x < size.width; ++x) {
      for (int c = 0; c < 3; ++c) {
        const float left = pixels[3 * across.first[x] + c], right = pixels[3 * across.last[x] + c];
        into[3 * x + c] = left + (right - left) * across.share[x];
      }
    }
  };
  for (int y = 0; y < size.height; ++y) {
    row(down.first[y], upper);
    row(down.last[y], lower);
    uint8_t* into = result.pixels.data() + size_t{3} * size.width * y;
    for (int i = 0; i < 3 * size.width; ++i) {
      into[i] = rounded(upper[i] + (lower[i] - upper[i]) * down.share[y]);
    }
  }
  return result;
}

// The pixels that each place averages over, by a triangle, and their weights.
struct Triangle {
  int first;
  std::vector<float> weights;
};

std::vector<Triangle> triangles(int count, int length) {
  std::vector<Triangle> found;
  const float inverse = 1.0f / (static_cast<float>(count) / static_cast<float>(length));
  const float reach = std::max(inverse, 1.0f);
  for (int i = 0; i < count; ++i) {
    const float place = (static_cast<float>(i) + 0.5f) * inverse;
    const auto inside = [&](float number) {
      return std::min(std::max(static_cast<int>(number), 0), length - 1);
    };
    const int first = inside(std::ceil(place - reach - 0.5f));
    const int last = inside(std::floor(place + reach - 0.5f));
    Triangle one{first, {}};
    float sum = 0;
    for (int j = first; j <= last; ++j) {
      const float distance = std::fabs((static_cast<float>(j) + 0.5f - place) * (1.0f / reach));
      one.weights.push_back(std::max(0.0f, 1.0f - distance));
      sum += one.weights.back();
    }
    for (float& weight : one.weights) weight *= 1.0f / sum;
    found.push_back(std::move(one));
  }
  return found;
}

Image averaged(const Image& image, Size size) {
  const std::vector<Triangle> down = triangles(size.height, image.height);
  const std::vector<Triangle> across = triangles(size.width, image.width);
  Image result{size.height, size.width, std::vector<uint8_t>(size_t{3} * size.height * size.width)};
  const size_t values = size_t{3} * image.width;
  std::vector<float> tall(values);
  for (int y = 0; y < size.height; ++y) {
    std::fill(tall.begin(), tall.end(), 0.0f);
    for (size_t j = 0; j < down[y].weights.size(); ++j) {
      const uint8_t* row = image.pixels.data() + values * (down[y].first + j);
      const float weight = down[y].weights[j];
      for (size_t i = 0; i < values; ++i) tall[i] += weight * row[i];
    }
    uint8_t* into = result.pixels.data() + size_t{3} * size.width * y;
    for (int x = 0; x < size.width; ++x) {
      for (int c = 0; c < 3; ++c) {
        float sum = 0;
        for (size_t j = 0; j < across[x].weights.size(); ++j) {
          sum += across[x].weights[j] * tall[3 * (across[x].first + j) + c];
        }
        into[3 * x + c] = rounded(sum);
      }
    }
  }
  return result;
}

Image scaled(const Image& image, Size size, bool antialias) {
  return antialias ? averaged(image, size) : linear(image, size);
}

Image part(const Image& image, Size size) {
  const int top = (image.height - size.height) / 2, left = (image.width - size.width) / 2;
  Image result{size.height, size.width, {}};
  result.pixels.reserve(size_t{3} * size.height * size.width);
  for (int y = 0; y < size.height; ++y) {
    const auto first = image.pixels.begin() + size_t{3} * (size_t(image.width) * (top + y) + left);
    result.pixels.insert(result.pixels.end(), first, first + size_t{3} * size.width);
  }
  return result;
}

Image padded(const Image& image, Size size, const Preprocess& how) {
  const double factor = std::min(static_cast<double>(size.height) / image.height,
                                 static_cast<double>(size.width) / image.width);
  const Size whole{std::min(std::max(rounded(image.height * factor), 1), size.height),
                   std::min(std::max(rounded(image.width * factor), 1), size.width)};
  const Image inner = scaled(image, whole, how.antialias);
  Image result{size.height, size.width,
               std::vector<uint8_t>(size_t{3} * size.height * size.width, rounded(how.pad_value))};
  const int top = (size.height - whole.height) / 2, left = (size.width - whole.width) / 2;
  for (int y = 0; y < whole.height; ++y) {
    std::copy_n(inner.pixels.begin() + size_t{3} * whole.width * y, size_t{3} * whole.width,
                result.pixels.begin() + size_t{3} * (size_t(size.width) * (top + y) + left));
  }
  return result;
}

Image cropped(const Image& image, Size size, const Preprocess& how) {
  if (how.resize_short) {
    const double factor =
        static_cast<double>(how.resize_short) / std::min(image.height, image.width);
    const Size whole{rounded(image.height * factor), rounded(image.width * factor)};
    return part(scaled(image, whole, how.antialias), size);
  }
  const double factor = std::min(static_cast<double>(image.height) / size.height,
                                 static_cast<double>(image.width) / size.width);
  const Size inner{std::min(std::max(rounded(size.height * factor), 1), image.height),
                   std::min(std::max(rounded(size.width * factor), 1), image.width)};
  return scaled(part(image, inner), size, how.antialias);
}

}  // namespace

Image prepare(const Image& image, int height, int width, const Preprocess& how) {
  const size_t bytes = size_t{3} * image.height * image.width;
  if (image.height < 1 || image.width < 1 || image.pixels.size() != bytes) {
    throw std::invalid_argument("an image needs 3 bytes for each of its pixels");
  }
  const Size size{height, width};
  if (how.resize == Preprocess::Resize::kPad) return padded(image, size, how);
  if (how.resize == Preprocess::Resize::kCrop) return cropped(image, size, how);
  return scaled(image, size, how.antialias);
}

}  // namespace keras_featx
