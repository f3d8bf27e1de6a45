// embed MODEL.tflite IMAGE... [--gallery FILE.kfg] [-k 5] [--threshold COSINE] [--threads 1]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>

#include "keras_featx/error.h"
#include "keras_featx/gallery.h"
#include "keras_featx/image.h"
#include "keras_featx/model.h"

namespace {

using keras_featx::Error;
using keras_featx::Fault;

constexpr char kUsage[] =
    "usage: embed MODEL.tflite IMAGE... [--gallery FILE.kfg] [-k NEIGHBOURS] [--threshold COSINE] "
    "[--threads COUNT]\n";

struct Options {
  std::string model, gallery;
  std::vector<std::string> images;
  int k = 5, threads = 1;
  std::optional<float> threshold;
};

int count_of(const std::string& name, const char* text) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (end == text || *end || value < 1 || value > 1'000'000) {
    throw Error(Fault::kUse, name + ": expected a number of at least 1, got '" + text + "'");
  }
  return static_cast<int>(value);
}

float cosine_of(const std::string& name, const char* text) {
  char* end = nullptr;
  const float value = std::strtof(text, &end);
  if (end == text || *end || !std::isfinite(value)) {
    throw Error(Fault::kUse, name + ": expected a cosine, got '" + text + "'");
  }
  return value;
}

Options parse(int count, char** arguments) {
  Options options;
  std::vector<std::string> names;
  for (int i = 1; i < count; ++i) {
    const std::string one = arguments[i];
    if (one.size() < 2 || one[0] != '-') {
      names.push_back(one);
      continue;
    }
    const bool known =
        one == "--gallery" || one == "-k" || one == "--threshold" || one == "--threads";
    if (!known) throw Error(Fault::kUse, "expected an option that there is, got '" + one + "'");
    if (++i == count) throw Error(Fault::kUse, one + ": expected a value");
    if (one == "--gallery") options.gallery = arguments[i];
    if (one == "-k") options.k = count_of(one, arguments[i]);
    if (one == "--threads") options.threads = count_of(one, arguments[i]);
    if (one == "--threshold") options.threshold = cosine_of(one, arguments[i]);
  }
  if (names.size() < 2) throw Error(Fault::kUse, "expected a model and images");
  options.model = names[0];
  options.images.assign(names.begin() + 1, names.end());
  return options;
}

std::string quoted(const std::string& text) {
  std::string found = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') {
      found += '\\';
      found += letter;
    } else if (static_cast<unsigned char>(letter) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", letter);
      found += escape;
    } else {
      found += letter;
    }
  }
  return found + "\"";
}

std::string text_of(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", static_cast<double>(value));
  return text;
}

std::string answer(const std::vector<float>& embedding, const keras_featx::Gallery* gallery,
                   const Options& options) {
  std::string found;
  if (!gallery) {
    for (const float value : embedding) found += (found.empty() ? "" : ", ") + text_of(value);
    return "\"embedding\": [" + found + "]";
  }
  const auto matches = gallery->search(embedding, options.k);
  const auto threshold = options.threshold ? options.threshold : gallery->threshold();
  for (const auto& match : matches) {
    found += std::string(found.empty() ? "" : ", ") + "{\"identity\": " + quoted(match.identity) +
             ", \"similarity\": " + text_of(match.similarity) +
             ", \"item\": " + std::to_string(match.item) + "}";
  }
  const bool known = !matches.empty() && (!threshold || matches[0].similarity >= *threshold);
  return "\"identity\": " + (known ? quoted(matches[0].identity) : "null") +
         ", \"similarity\": " + (matches.empty() ? "null" : text_of(matches[0].similarity)) +
         ", \"neighbours\": [" + found + "]";
}

keras_featx::Image load(const std::string& path, const keras_featx::Preprocess& how) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file && file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
  if (!file.is_open() || file.bad()) {
    const std::string reason = errno ? std::strerror(errno) : "it cannot be read";
    throw Error(Fault::kImage, path + ": expected an image that can be decoded: " + reason);
  }
  const std::string data = text.str();
  return keras_featx::decode(reinterpret_cast<const uint8_t*>(data.data()), data.size(),
                             how.background, path);
}

int run(const Options& options) {
  keras_featx::Model model(options.model, options.threads);
  std::unique_ptr<keras_featx::Gallery> gallery;
  if (!options.gallery.empty()) {
    gallery = std::make_unique<keras_featx::Gallery>(options.gallery, model.fingerprint());
  }
  int status = 0;
  for (const std::string& path : options.images) {
    try {
      const auto embedding = model.embed(load(path, model.preprocess()));
      std::cout << "{\"image\": " << quoted(path) << ", "
                << answer(embedding, gallery.get(), options) << "}" << std::endl;
    } catch (const Error& error) {
      std::cerr << "error: " << error.what() << std::endl;
      status = 1;
    }
  }
  return status;
}

}  // namespace

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    if (!std::strcmp(arguments[i], "--help") || !std::strcmp(arguments[i], "-h")) {
      std::cout << kUsage;
      return 0;
    }
  }
  try {
    return run(parse(count, arguments));
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return static_cast<int>(error.fault);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}
