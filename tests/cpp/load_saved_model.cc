// Loads a SavedModel as TensorFlow Serving does: by its tag, then by the names of a SignatureDef.
//
//   load_saved_model FOLDER SIGNATURE INPUT OUTPUT IMAGE...
//
// prints a line of numbers for each image. Of INPUT `image` the files are raw uint8 pixels of the
// signature's size, otherwise encoded images.

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/public/session_options.h"

namespace tf = tensorflow;

static int fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  return 1;
}

static std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

int main(int count, char** words) {
  if (count < 6) return fail("usage: load_saved_model FOLDER SIGNATURE INPUT OUTPUT IMAGE...");
  tf::SavedModelBundle bundle;
  auto loaded = tf::LoadSavedModel(tf::SessionOptions(), tf::RunOptions(), words[1],
                                   {"serve"}, &bundle);
  if (!loaded.ok()) return fail(std::string(loaded.message()));
  const auto& signatures = bundle.meta_graph_def.signature_def();
  const auto found = signatures.find(words[2]);
  if (found == signatures.end()) return fail("no such signature");
  if (!found->second.inputs().contains(words[3])) return fail("no such input");
  if (!found->second.outputs().contains(words[4])) return fail("no such output");
  const tf::TensorInfo& in = found->second.inputs().at(words[3]);
  const tf::TensorInfo& out = found->second.outputs().at(words[4]);

  const int images = count - 5;
  tf::TensorShape shape({images});
  if (in.dtype() == tf::DT_UINT8) {
    for (int i = 1; i < in.tensor_shape().dim_size(); ++i) {
      shape.AddDim(in.tensor_shape().dim(i).size());
    }
  }
  tf::Tensor input(in.dtype(), shape);
  for (int i = 0; i < images; ++i) {
    const std::string data = read_file(words[5 + i]);
    if (in.dtype() == tf::DT_STRING) {
      input.flat<tf::tstring>()(i) = data;
    } else {
      const auto size = input.NumElements() / images;
      if (static_cast<long>(data.size()) != size) return fail("pixels of another size");
      std::copy(data.begin(), data.end(), input.flat<tf::uint8>().data() + i * size);
    }
  }
  std::vector<tf::Tensor> results;
  auto ran = bundle.session->Run({{in.name(), input}}, {out.name()}, {}, &results);
  if (!ran.ok()) return fail(std::string(ran.message()));
  const auto rows = results[0].flat_inner_dims<float>();
  for (int i = 0; i < rows.dimension(0); ++i) {
    for (int k = 0; k < rows.dimension(1); ++k) std::printf("%.9g ", rows(i, k));
    std::printf("\n");
  }
  return 0;
}
