// What a model says of itself, in the ZIP archive behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace keras_featx {

// The contents of a stored entry of an archive that ends a file; null if there is none such.
std::string_view find_entry(std::string_view file, std::string_view name, bool* found);

// The scalars of a JSON text by their path ("preprocess.resize", "preprocess.background.0"):
// texts as they are, everything else as it is written. Throws std::invalid_argument.
std::map<std::string, std::string> read_json(std::string_view text);

// All of a file. Throws Error with `what` that was expected.
std::string read_file(const std::string& path, const std::string& what);

// A little-endian number at a place that is known to be there.
inline uint64_t number(const void* data, int bytes) {
  const auto* byte = static_cast<const uint8_t*>(data);
  uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; --i) value = value << 8 | byte[i];
  return value;
}

}  // namespace keras_featx
