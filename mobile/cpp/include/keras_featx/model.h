// A .tflite of keras-featx export, run by LiteRT.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "keras_featx/image.h"

namespace keras_featx {

class Model {
 public:
  // Opens a file; one embedding uses so many threads. Throws Error.
  explicit Model(const std::string& path, int threads = 1);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // Embeds an upright image of any size: a unit vector. One thread at a time.
  std::vector<float> embed(const Image& image);
  // Embeds pixels of height() x width() x 3.
  std::vector<float> embed_pixels(const uint8_t* pixels);

  int height() const { return height_; }
  int width() const { return width_; }
  const Preprocess& preprocess() const { return preprocess_; }
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  struct Runtime;
  std::unique_ptr<Runtime> runtime_;
  int height_ = 0, width_ = 0;
  Preprocess preprocess_;
  std::string fingerprint_;
};

}  // namespace keras_featx
