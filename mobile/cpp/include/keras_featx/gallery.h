// The gallery file, memory-mapped; mobile/GALLERY.md has its layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace keras_featx {

struct Match {
  std::string identity;
  float similarity;
  uint64_t item;
};

class Gallery {
 public:
  // Opens a file. `fingerprint` is that of the model that asks; an empty one lets any ask. `check`
  // reads all of the file once, to compare its checksum. Throws Error.
  explicit Gallery(const std::string& path, const std::string& fingerprint = "", bool check = true);
  ~Gallery();
  Gallery(const Gallery&) = delete;
  Gallery& operator=(const Gallery&) = delete;

  // The k nearest items of a unit vector, best first, ties to the lowest item. Any number of
  // threads may ask at a time. Throws Error on a vector of another size.
  std::vector<Match> search(const std::vector<float>& query, size_t k) const;

  uint64_t items() const { return items_; }
  uint32_t size() const { return size_; }
  // Cosine below which an image is of nobody known; none if the file has none.
  std::optional<float> threshold() const { return threshold_; }
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  void open(const std::string& path, bool check);
  std::string name_of(uint64_t item) const;

  const uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
  uint32_t size_ = 0, identities_ = 0;
  uint64_t items_ = 0;
  const uint8_t *labels_ = nullptr, *names_ = nullptr, *scales_ = nullptr;
  const uint8_t *codes_ = nullptr, *vectors_ = nullptr;
  std::optional<float> threshold_;
  std::string fingerprint_;
};

}  // namespace keras_featx
