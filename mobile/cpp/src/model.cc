#include "keras_featx/model.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "archive.h"
#include "keras_featx/error.h"
#include "litert.h"

namespace keras_featx {
namespace {

constexpr int kFloat32 = 1, kUint8 = 3, kCpu = 1;
constexpr size_t kAlignment = 64;  // which LiteRT wants of memory that is not its own
constexpr char kFacts[] = "keras_featx.json";

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

Memory aligned(size_t bytes) {
  void* memory = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (!memory) throw std::bad_alloc();
  return Memory(memory);
}

[[noreturn]] void refuse(const std::string& path, const std::string& message) {
  throw Error(Fault::kUse, path + ": expected " + message);
}

void check(LiteRtStatus status, const std::string& path) {
  if (status != 0) {
    refuse(path, "a model that can be opened: LiteRT gives status " + std::to_string(status));
  }
}

using Facts = std::map<std::string, std::string>;

Preprocess read_preprocess(const std::string& path, const Facts& facts) {
  const auto get = [&](const std::string& key) { return facts.at("preprocess." + key); };
  const bool reduced = get("reduced_decoding") == "true";
  if (get("interpolation") != "bilinear" || get("backend") != "tensorflow" || reduced) {
    refuse(path, "a preprocessing of bilinear, tensorflow, without reduced_decoding, got " +
                     get("interpolation") + ", " + get("backend") + ", " +
                     (reduced ? "with" : "without") + " reduced_decoding");
  }
  Preprocess how;
  const std::string resize = get("resize");
  if (resize == "pad") {
    how.resize = Preprocess::Resize::kPad;
  } else if (resize == "crop") {
    how.resize = Preprocess::Resize::kCrop;
  } else if (resize != "squash") {
    throw std::invalid_argument("resize");
  }
  if (get("resize_short") != "null") how.resize_short = std::stoi(get("resize_short"));
  how.pad_value = std::stof(get("pad_value"));
  how.antialias = get("antialias") == "true";
  if (facts.count("preprocess.background.0")) {
    how.background = Colour{};
    for (int i = 0; i < 3; ++i) {
      (*how.background)[i] = std::stof(get("background." + std::to_string(i)));
    }
  }
  return how;
}

bool is_fingerprint(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

// What LiteRT holds, given back in the order it must be.
struct Model::Runtime {
  std::string file;  // the model reads from it
  LiteRtEnvironment environment = nullptr;
  LiteRtModel model = nullptr;
  LiteRtCompiledModel compiled = nullptr;
  Memory input, output;
  LiteRtTensorBuffer input_buffer = nullptr, output_buffer = nullptr;
  LiteRtParamIndex signature = 0;
  size_t input_bytes = 0, embedding_size = 0;

  ~Runtime() {
    if (input_buffer) LiteRtDestroyTensorBuffer(input_buffer);
    if (output_buffer) LiteRtDestroyTensorBuffer(output_buffer);
    if (compiled) LiteRtDestroyCompiledModel(compiled);
    if (model) LiteRtDestroyModel(model);
    if (environment) LiteRtDestroyEnvironment(environment);
  }

  void compile(const std::string& path, int threads) {
    LiteRtOptions options = nullptr;
    check(LiteRtCreateOptions(&options), path);
    const std::unique_ptr<std::remove_pointer_t<LiteRtOptions>, void (*)(LiteRtOptions)> owned(
        options, LiteRtDestroyOptions);
    check(LiteRtSetOptionsHardwareAccelerators(options, kCpu), path);
    const std::string text = "num_threads = " + std::to_string(threads) + "\n";
    char* payload = static_cast<char*>(std::malloc(text.size() + 1));
    if (!payload) throw std::bad_alloc();
    std::memcpy(payload, text.c_str(), text.size() + 1);
    LiteRtOpaqueOptions cpu = nullptr;
    check(LiteRtCreateOpaqueOptions("xnnpack", payload, std::free, &cpu), path);
    check(LiteRtAddOpaqueOptions(options, cpu), path);
    check(LiteRtCreateCompiledModel(environment, model, options, &compiled), path);
  }

  // Finds the signature; returns the type of its one input.
  LiteRtTensorType bind(const std::string& path) {
    LiteRtParamIndex count = 0, inputs = 0, outputs = 0;
    check(LiteRtGetNumModelSignatures(model, &count), path);
    LiteRtSignature found = nullptr;
    for (LiteRtParamIndex i = 0; i < count && !found; ++i) {
      LiteRtSignature one = nullptr;
      const char* key = "";
      check(LiteRtGetModelSignature(model, i, &one), path);
      check(LiteRtGetSignatureKey(one, &key), path);
      if (std::strcmp(key, "serving_default") == 0) found = one, signature = i;
    }
    if (!found) refuse(path, "a signature serving_default");
    check(LiteRtGetNumSignatureInputs(found, &inputs), path);
    check(LiteRtGetNumSignatureOutputs(found, &outputs), path);
    if (inputs != 1 || outputs != 1) refuse(path, "one input and one output");
    LiteRtTensor image = nullptr, embedding = nullptr;
    LiteRtTensorType from{}, to{};
    check(LiteRtGetSignatureInputTensorByIndex(found, 0, &image), path);
    check(LiteRtGetSignatureOutputTensorByIndex(found, 0, &embedding), path);
    check(LiteRtGetRankedTensorType(image, &from), path);
    check(LiteRtGetRankedTensorType(embedding, &to), path);
    if (from.element != kUint8 || from.rank != 4 || from.dimensions[0] != 1 ||
        from.dimensions[1] < 1 || from.dimensions[2] < 1 || from.dimensions[3] != 3) {
      refuse(path, "an input of uint8 (1, height, width, 3)");
    }
    if (to.element != kFloat32 || to.rank != 2 || to.dimensions[1] < 1) {
      refuse(path, "an output of float32 (1, size)");
    }
    input_bytes = size_t{3} * from.dimensions[1] * from.dimensions[2];
    embedding_size = to.dimensions[1];
    input = aligned(input_bytes);
    output = aligned(embedding_size * sizeof(float));
    check(LiteRtCreateTensorBufferFromHostMemory(&from, input.get(), input_bytes, nullptr,
                                                 &input_buffer),
          path);
    check(LiteRtCreateTensorBufferFromHostMemory(&to, output.get(), embedding_size * sizeof(float),
                                                 nullptr, &output_buffer),
          path);
    return from;
  }
};

Model::Model(const std::string& path, int threads) : runtime_(new Runtime) {
  runtime_->file = read_file(path, "a model");
  bool found = false;
  const std::string_view text = find_entry(runtime_->file, kFacts, &found);
  const std::string none = "a .tflite of keras-featx export";
  if (!found) refuse(path, none);
  try {
    const Facts facts = read_json(text);
    fingerprint_ = facts.at("fingerprint");
    if (!is_fingerprint(fingerprint_)) throw std::invalid_argument("fingerprint");
    preprocess_ = read_preprocess(path, facts);
  } catch (const std::logic_error&) {  // what is missing, no JSON, or no number
    refuse(path, none);
  }
  // No search for other processors than the CPU, and of the log only errors.
  const LiteRtEnvironmentOption options[] = {{24, {2, kCpu}}, {25, {2, 3}}};
  check(LiteRtCreateEnvironment(2, options, &runtime_->environment), path);
  check(LiteRtCreateModelFromBuffer(runtime_->environment, runtime_->file.data(),
                                    runtime_->file.size(), &runtime_->model),
        path);
  const LiteRtTensorType type = runtime_->bind(path);
  height_ = type.dimensions[1];
  width_ = type.dimensions[2];
  runtime_->compile(path, threads);
}

Model::~Model() = default;

std::vector<float> Model::embed(const Image& image) {
  return embed_pixels(prepare(image, height_, width_, preprocess_).pixels.data());
}

std::vector<float> Model::embed_pixels(const uint8_t* pixels) {
  std::memcpy(runtime_->input.get(), pixels, runtime_->input_bytes);
  const LiteRtStatus status =
      LiteRtRunCompiledModel(runtime_->compiled, runtime_->signature, 1, &runtime_->input_buffer, 1,
                             &runtime_->output_buffer);
  if (status != 0) {
    throw Error(Fault::kImage, "the network failed: LiteRT gives status " + std::to_string(status));
  }
  const auto* numbers = static_cast<const float*>(runtime_->output.get());
  std::vector<float> embedding(numbers, numbers + runtime_->embedding_size);
  for (const float value : embedding) {
    if (!std::isfinite(value)) throw Error(Fault::kImage, "the network gave no finite embedding");
  }
  return embedding;
}

}  // namespace keras_featx
