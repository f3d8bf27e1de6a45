#include "archive.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "keras_featx/error.h"

namespace keras_featx {
namespace {

constexpr size_t kEndBytes = 22, kEntryBytes = 46, kLocalBytes = 30, kLongestComment = 65535;
constexpr int kDeepest = 8;

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  std::map<std::string, std::string> read() {
    value("", 0);
    space();
    if (at_ != text_.size()) fail();
    return std::move(found_);
  }

 private:
  [[noreturn]] void fail() const { throw std::invalid_argument("no JSON"); }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void space() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_])) ++at_;
  }

  bool skip(char wanted) {
    space();
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }

  void value(const std::string& path, int depth) {
    if (depth > kDeepest) fail();
    space();
    const auto inside = [&](const std::string& name) {
      value(path.empty() ? name : path + "." + name, depth + 1);
    };
    if (skip('{')) {
      if (skip('}')) return;
      do {
        space();
        const std::string name = string();
        if (!skip(':')) fail();
        inside(name);
      } while (skip(','));
      if (!skip('}')) fail();
    } else if (skip('[')) {
      if (skip(']')) return;
      int i = 0;
      do inside(std::to_string(i++));
      while (skip(','));
      if (!skip(']')) fail();
    } else if (peek() == '"') {
      found_[path] = string();
    } else {
      const size_t first = at_;
      while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) ||
                                    std::strchr("+-.", text_[at_])))
        ++at_;
      if (at_ == first) fail();
      found_[path] = std::string(text_.substr(first, at_ - first));
    }
  }

  // Escapes other than of one letter do not occur in what is read here.
  std::string string() {
    if (!skip('"')) fail();
    std::string found;
    while (peek() != '"') {
      if (at_ >= text_.size()) fail();
      char letter = text_[at_++];
      if (letter == '\\') {
        if (at_ >= text_.size()) fail();
        const char* escapes = "\"\\/bfnrt";
        const char* place = std::strchr(escapes, text_[at_++]);
        if (!place || !*place) fail();
        letter = "\"\\/\b\f\n\r\t"[place - escapes];
      }
      found += letter;
    }
    ++at_;
    return found;
  }

  std::string_view text_;
  size_t at_ = 0;
  std::map<std::string, std::string> found_;
};

}  // namespace

std::map<std::string, std::string> read_json(std::string_view text) { return Reader(text).read(); }

std::string_view find_entry(std::string_view file, std::string_view name, bool* found) {
  *found = false;
  if (file.size() < kEndBytes) return {};
  const size_t earliest =
      file.size() > kEndBytes + kLongestComment ? file.size() - kEndBytes - kLongestComment : 0;
  size_t end = file.size() - kEndBytes;
  while (std::memcmp(file.data() + end, "PK\5\6", 4) != 0) {
    if (end == earliest) return {};
    --end;
  }
  const uint64_t count = number(file.data() + end + 10, 2);
  const uint64_t length = number(file.data() + end + 12, 4);
  const uint64_t offset = number(file.data() + end + 16, 4);
  if (length > end || offset > end - length) return {};
  // Where something was put in front of the archive, its own offsets are too small by that.
  const uint64_t moved = end - length - offset;
  size_t at = end - length;
  for (uint64_t i = 0; i < count; ++i) {
    if (end - at < kEntryBytes || std::memcmp(file.data() + at, "PK\1\2", 4) != 0) return {};
    const char* entry = file.data() + at;
    const uint64_t method = number(entry + 10, 2), stored = number(entry + 20, 4);
    const uint64_t named = number(entry + 28, 2);
    const uint64_t rest = named + number(entry + 30, 2) + number(entry + 32, 2);
    const uint64_t local = number(entry + 42, 4) + moved;
    if (end - at - kEntryBytes < rest) return {};
    if (file.substr(at + kEntryBytes, named) == name) {
      if (method != 0 || local > end || end - local < kLocalBytes) return {};
      const char* head = file.data() + local;
      const uint64_t start = local + kLocalBytes + number(head + 26, 2) + number(head + 28, 2);
      if (std::memcmp(head, "PK\3\4", 4) != 0 || start > end || end - start < stored) return {};
      *found = true;
      return file.substr(start, stored);
    }
    at += kEntryBytes + rest;
  }
  return {};
}

std::string read_file(const std::string& path, const std::string& what) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file && file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
  if (!file.is_open() || file.bad()) {
    const std::string reason = errno ? std::strerror(errno) : "it cannot be read";
    throw Error(Fault::kUse, path + ": expected " + what + ": " + reason);
  }
  return text.str();
}

}  // namespace keras_featx
