#include "keras_featx/gallery.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <numeric>

#include "archive.h"
#include "keras_featx/error.h"

namespace keras_featx {
namespace {

constexpr size_t kHeader = 128, kAligned = 64, kLanes = 16, kCandidates = 4;

[[noreturn]] void refuse(const std::string& path, const std::string& message) {
  throw Error(Fault::kUse, path + ": " + message);
}

// CRC-32 as zlib has it, eight bytes at a time.
uint32_t crc32(const uint8_t* data, size_t size) {
  static const auto* const tables = [] {
    auto* made = new uint32_t[8][256];
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
      made[0][i] = value;
    }
    for (int t = 1; t < 8; ++t) {
      for (int i = 0; i < 256; ++i) {
        made[t][i] = made[t - 1][i] >> 8 ^ made[0][made[t - 1][i] & 255];
      }
    }
    return made;
  }();
  uint32_t crc = ~0u;
  for (; size >= 8; size -= 8, data += 8) {
    const uint64_t eight = number(data, 8) ^ crc;
    crc = 0;
    for (int i = 0; i < 8; ++i) crc ^= tables[7 - i][eight >> 8 * i & 255];
  }
  for (; size; --size, ++data) crc = crc >> 8 ^ tables[0][(crc ^ *data) & 255];
  return ~crc;
}

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// From float16 by arithmetic on the bits, which a compiler turns into vector instructions. Right
// for all that an embedding holds: numbers up to 1, zero and what is denormal included.
float from_half(uint16_t half) {
  const float magnitude = from_bits((half & 0x7fffu) << 13) * from_bits(0x77800000u);  // 2^112
  return half & 0x8000u ? -magnitude : magnitude;
}

// The sum in lanes, so that a compiler may use vector instructions without changing the order.
template <typename Value>
float product(const float* query, size_t size, const Value& value) {
  float lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] += query[i + j] * value(i + j);
  }
  for (; i < size; ++i) lanes[i % kLanes] += query[i] * value(i);
  return std::accumulate(lanes, lanes + kLanes, 0.0f);
}

std::string counted(uint64_t value) {
  std::string text = std::to_string(value);
  for (int at = static_cast<int>(text.size()) - 3; at > 0; at -= 3) text.insert(at, ",");
  return text;
}

bool is_utf8(const uint8_t* text, size_t size) {
  for (size_t i = 0; i < size;) {
    const uint8_t first = text[i++];
    int more = first < 0x80 ? 0 : first >> 5 == 6 ? 1 : first >> 4 == 14 ? 2 : first >> 3 == 30 ? 3 : -1;
    if (more < 0 || size - i < static_cast<size_t>(more)) return false;
    uint32_t code = more ? first & (0x3f >> more) : first;
    const int length = more;
    for (; more; --more) {
      if ((text[i] & 0xc0) != 0x80) return false;
      code = code << 6 | (text[i++] & 0x3f);
    }
    static const uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
    if (code < kLeast[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
  }
  return true;
}

}  // namespace

Gallery::Gallery(const std::string& path, const std::string& fingerprint, bool check) {
  try {
    open(path, check);
    if (!fingerprint.empty() && fingerprint != fingerprint_) {
      refuse(path, "expected a gallery of the model " + fingerprint + ", got one of " + fingerprint_);
    }
  } catch (...) {
    if (data_) munmap(const_cast<uint8_t*>(data_), bytes_);
    throw;
  }
}

Gallery::~Gallery() {
  if (data_) munmap(const_cast<uint8_t*>(data_), bytes_);
}

void Gallery::open(const std::string& path, bool check) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat about {};
  if (file < 0 || fstat(file, &about) != 0) {
    const std::string reason = std::strerror(errno);
    if (file >= 0) close(file);
    refuse(path, "expected a gallery file: " + reason);
  }
  bytes_ = static_cast<size_t>(about.st_size);
  void* memory = bytes_ ? mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file, 0) : nullptr;
  close(file);
  if (!bytes_) refuse(path, "expected a gallery file: it is empty");
  if (memory == MAP_FAILED) refuse(path, "expected a gallery file: it cannot be mapped");
  data_ = static_cast<const uint8_t*>(memory);
  if (bytes_ < 8 || std::memcmp(data_, "KFXGAL\r\n", 8) != 0) {
    refuse(path, "expected a gallery file, got another kind of file");
  }
  if (bytes_ < kHeader) {
    refuse(path, "expected at least 128 bytes, got " + std::to_string(bytes_));
  }
  const uint64_t version = number(data_ + 8, 4), kind = number(data_ + 12, 4);
  if (version != 1) {
    refuse(path, "expected a gallery file of version 1, got " + std::to_string(version));
  }
  if (number(data_ + 76, 4) != crc32(data_, 76)) {
    refuse(path, "damaged: the checksum of its header is another");
  }
  size_ = static_cast<uint32_t>(number(data_ + 16, 4));
  identities_ = static_cast<uint32_t>(number(data_ + 20, 4));
  items_ = number(data_ + 24, 8);
  const uint64_t names = number(data_ + 68, 4);
  if (kind > 1 || !size_ || names < 4 * (uint64_t{identities_} + 1)) {
    refuse(path, "damaged: its header holds impossible numbers");
  }
  // Wide enough that no product of the header's numbers overflows.
  using Wide = unsigned __int128;
  Wide at = kHeader;
  const auto section = [&](Wide length) {
    const uint8_t* first = at <= bytes_ ? data_ + static_cast<size_t>(at) : nullptr;
    at += (length + kAligned - 1) / kAligned * kAligned;
    return first;
  };
  labels_ = section(Wide{4} * items_);
  names_ = section(names);
  if (kind == 1) {
    scales_ = section(Wide{4} * items_);
    codes_ = section(Wide{size_} * items_);
  }
  vectors_ = section(Wide{2} * size_ * items_);
  if (at != bytes_) {
    const bool fits = at <= ~uint64_t{0};
    refuse(path, "expected " + (fits ? counted(static_cast<uint64_t>(at)) : "more") +
                     " bytes, got " + counted(bytes_));
  }
  if (check && number(data_ + 72, 4) != crc32(data_ + kHeader, bytes_ - kHeader)) {
    refuse(path, "damaged: the checksum of its contents is another");
  }
  const uint64_t text = names - 4 * (uint64_t{identities_} + 1);
  uint64_t before = 0;
  bool good = number(names_, 4) == 0;
  for (uint64_t i = 0; good && i < identities_; ++i) {
    const uint64_t end = number(names_ + 4 * (i + 1), 4);
    good = end >= before && end <= text &&
           is_utf8(names_ + 4 * (uint64_t{identities_} + 1) + before, end - before);
    before = end;
  }
  if (!good || before != text) refuse(path, "damaged: the names of its identities");
  for (uint64_t i = 0; i < items_; ++i) {
    const uint64_t label = number(labels_ + 4 * i, 4);
    if (label >= identities_) {
      refuse(path, "damaged: an item names identity " + std::to_string(label));
    }
  }
  const float threshold = from_bits(static_cast<uint32_t>(number(data_ + 64, 4)));
  if (!std::isnan(threshold)) threshold_ = threshold;
  static const char* const kDigits = "0123456789abcdef";
  for (int i = 32; i < 64; ++i) {
    fingerprint_ += kDigits[data_[i] >> 4];
    fingerprint_ += kDigits[data_[i] & 15];
  }
}

std::string Gallery::name_of(uint64_t item) const {
  const uint64_t label = number(labels_ + 4 * item, 4);
  const uint64_t first = number(names_ + 4 * label, 4), last = number(names_ + 4 * label + 4, 4);
  const char* text = reinterpret_cast<const char*>(names_) + 4 * (uint64_t{identities_} + 1);
  return std::string(text + first, last - first);
}

std::vector<Match> Gallery::search(const std::vector<float>& query, size_t k) const {
  if (query.size() != size_) {
    throw Error(Fault::kUse, "query: expected " + std::to_string(size_) + " numbers, got " +
                                 std::to_string(query.size()));
  }
  std::vector<uint64_t> candidates;
  std::vector<float> scores(items_);
  const auto best = [&](std::vector<uint64_t>& rows, size_t count) {
    const auto before = [&](uint64_t a, uint64_t b) {
      return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
    };
    count = std::min(count, rows.size());
    std::partial_sort(rows.begin(), rows.begin() + count, rows.end(), before);
    rows.resize(count);
  };
  candidates.resize(items_);
  std::iota(candidates.begin(), candidates.end(), uint64_t{0});
  if (codes_ && kCandidates * k < items_) {
    for (uint64_t i = 0; i < items_; ++i) {
      const auto* code = reinterpret_cast<const int8_t*>(codes_) + size_ * i;
      scores[i] = from_bits(static_cast<uint32_t>(number(scales_ + 4 * i, 4))) *
                  product(query.data(), size_, [code](size_t j) { return float{1} * code[j]; });
    }
    best(candidates, kCandidates * k);
  }
  std::vector<float> values(size_);
  for (const uint64_t i : candidates) {
    const uint8_t* row = vectors_ + size_t{2} * size_ * i;
    for (uint32_t j = 0; j < size_; ++j) {
      uint16_t half;
      std::memcpy(&half, row + 2 * j, 2);
      values[j] = from_half(half);
    }
    const float* numbers = values.data();
    scores[i] = product(query.data(), size_, [numbers](size_t j) { return numbers[j]; });
  }
  best(candidates, k);
  std::vector<Match> found;
  for (const uint64_t i : candidates) found.push_back({name_of(i), scores[i], i});
  return found;
}

}  // namespace keras_featx
