// JPEG and PNG by the system's libraries, with the settings of training's decoders.
#include <cstddef>
#include <cstdio>
// jpeglib.h needs what comes before, jerror.h needs jpeglib.h.
#include <jpeglib.h>

#include <jerror.h>
#include <png.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstring>

#include "keras_featx/error.h"
#include "keras_featx/image.h"

namespace keras_featx {
namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& reason) {
  throw Error(Fault::kImage, name + ": expected an image that can be decoded: " + reason);
}

void check_size(const std::string& name, uint64_t height, uint64_t width) {
  if (height * width > kMostPixels) {
    throw Error(Fault::kImage, name + ": expected at most " + std::to_string(kMostPixels) +
                                   " pixels, got " + std::to_string(height * width));
  }
}

// The orientation of a TIFF structure, as EXIF has it; 1 where it has none.
int tiff_orientation(const uint8_t* data, size_t size) {
  if (size < 8) return 1;
  const bool big = data[0] == 'M';
  if (!big && data[0] != 'I') return 1;
  const auto read = [&](size_t at, int bytes) {
    uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) value = value << 8 | data[big ? at + i : at + bytes - 1 - i];
    return value;
  };
  const size_t first = read(4, 4);
  if (first > size - 2 || size - first < 2) return 1;
  const size_t entries = read(first, 2);
  for (size_t i = 0; i < entries; ++i) {
    const size_t at = first + 2 + 12 * i;
    if (at > size || size - at < 12) return 1;
    if (read(at, 2) == 0x0112) {
      const uint32_t value = read(at + 8, 2);
      return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
  }
  return 1;
}

// ---- JPEG -----------------------------------------------------------------------------------

struct JpegErrors {
  jpeg_error_mgr base;
  std::jmp_buf back;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void jpeg_failed(j_common_ptr about) {
  auto* errors = reinterpret_cast<JpegErrors*>(about->err);
  about->err->format_message(about, errors->message);
  std::longjmp(errors->back, 1);
}

void jpeg_warned(j_common_ptr about, int level) {
  // A file that is cut off is an error, not half a picture.
  if (level < 0 && about->err->msg_code == JWRN_JPEG_EOF) jpeg_failed(about);
}

int jpeg_orientation(const jpeg_decompress_struct& jpeg) {
  for (jpeg_saved_marker_ptr one = jpeg.marker_list; one; one = one->next) {
    if (one->marker == JPEG_APP0 + 1 && one->data_length > 6 &&
        std::memcmp(one->data, "Exif\0\0", 6) == 0) {
      return tiff_orientation(one->data + 6, one->data_length - 6);
    }
  }
  return 1;
}

// Four inks, which Adobe's files hold upside down, to red, green and blue.
void ink_to_light(const uint8_t* ink, uint8_t* light, int width, bool upside_down) {
  for (int x = 0; x < width; ++x, ink += 4, light += 3) {
    const int black = upside_down ? ink[3] : 255 - ink[3];
    for (int c = 0; c < 3; ++c) light[c] = black * (upside_down ? ink[c] : 255 - ink[c]) / 255;
  }
}

// Nothing in here has a destructor, as errors jump out of it.
bool read_jpeg(const uint8_t* data, size_t size, JpegErrors& errors, jpeg_decompress_struct& jpeg,
               Image& image, std::vector<uint8_t>& row, int& orientation, bool header_only) {
  if (setjmp(errors.back)) return false;
  if (header_only) {
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, data, size);
    jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(&jpeg, TRUE);
    return true;
  }
  const bool inks = jpeg.num_components == 4;
  jpeg.out_color_space = inks ? JCS_CMYK : JCS_RGB;
  jpeg.dct_method = JDCT_ISLOW;
  jpeg.do_fancy_upsampling = TRUE;
  jpeg_start_decompress(&jpeg);
  while (jpeg.output_scanline < jpeg.output_height) {
    uint8_t* into = image.pixels.data() + size_t{3} * image.width * jpeg.output_scanline;
    JSAMPROW rows[1] = {inks ? row.data() : into};
    jpeg_read_scanlines(&jpeg, rows, 1);
    if (inks) ink_to_light(row.data(), into, image.width, jpeg.saw_Adobe_marker);
  }
  orientation = jpeg_orientation(jpeg);
  jpeg_finish_decompress(&jpeg);
  return true;
}

Image decode_jpeg(const uint8_t* data, size_t size, const std::string& name) {
  JpegErrors errors;
  jpeg_decompress_struct jpeg;
  std::memset(&jpeg, 0, sizeof jpeg);
  jpeg.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = jpeg_failed;
  errors.base.emit_message = jpeg_warned;
  struct Destroy {
    jpeg_decompress_struct& jpeg;
    ~Destroy() { jpeg_destroy_decompress(&jpeg); }
  } destroy{jpeg};
  Image image;
  std::vector<uint8_t> row;
  int orientation = 1;
  if (!read_jpeg(data, size, errors, jpeg, image, row, orientation, true)) {
    refuse(name, errors.message);
  }
  check_size(name, jpeg.image_height, jpeg.image_width);
  image.height = jpeg.image_height;
  image.width = jpeg.image_width;
  image.pixels.resize(size_t{3} * image.height * image.width);
  row.resize(size_t{4} * image.width);
  if (!read_jpeg(data, size, errors, jpeg, image, row, orientation, false)) {
    refuse(name, errors.message);
  }
  return upright(std::move(image), orientation);
}

// ---- PNG ------------------------------------------------------------------------------------

struct PngState {
  const uint8_t* data;
  size_t size, at = 0;
  char message[128] = "";
};

void png_read(png_structp png, png_bytep into, png_size_t count) {
  auto* state = static_cast<PngState*>(png_get_io_ptr(png));
  if (count > state->size - state->at) png_error(png, "it is cut off");
  std::memcpy(into, state->data + state->at, count);
  state->at += count;
}

[[noreturn]] void png_failed(png_structp png, png_const_charp message) {
  auto* state = static_cast<PngState*>(png_get_error_ptr(png));
  std::strncpy(state->message, message, sizeof state->message - 1);
  png_longjmp(png, 1);
}

void png_warned(png_structp, png_const_charp) {}

bool png_header(png_structp png, png_infop info, PngState* state) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_read_fn(png, state, png_read);
  png_read_info(png, info);
  return true;
}

// To 8 bits, red, green, blue and, with `opacity`, how opaque.
bool png_pixels(png_structp png, png_infop info, bool opacity, png_bytepp rows, int* orientation) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_expand(png);
  png_set_strip_16(png);
  png_set_gray_to_rgb(png);
  if (opacity) {
    png_set_add_alpha(png, 255, PNG_FILLER_AFTER);
  } else {
    png_set_strip_alpha(png);
  }
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  if (png_get_rowbytes(png, info) != (opacity ? 4u : 3u) * png_get_image_width(png, info)) {
    png_error(png, "its rows have another length");
  }
  png_read_image(png, rows);
  png_read_end(png, info);
#ifdef PNG_eXIf_SUPPORTED
  png_uint_32 count = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(png, info, &count, &exif)) *orientation = tiff_orientation(exif, count);
#endif
  return true;
}

Image over(const std::vector<uint8_t>& pixels, int height, int width, const Colour& background) {
  Image image{height, width, std::vector<uint8_t>(size_t{3} * height * width)};
  for (size_t i = 0; i < size_t(height) * width; ++i) {
    const float absent = static_cast<float>(255 - pixels[4 * i + 3]) / 255.0f;
    for (int c = 0; c < 3; ++c) {
      const float colour = pixels[4 * i + c];
      const float found = colour + (background[c] - colour) * absent;
      image.pixels[3 * i + c] = static_cast<uint8_t>(std::nearbyintf(found));
    }
  }
  return image;
}

Image decode_png(const uint8_t* data, size_t size, const std::optional<Colour>& background,
                 const std::string& name) {
  PngState state{data, size};
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &state, png_failed, png_warned);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  struct Destroy {
    png_structp& png;
    png_infop& info;
    ~Destroy() { png_destroy_read_struct(&png, &info, nullptr); }
  } destroy{png, info};
  if (!info) refuse(name, "there is no memory");
  if (!png_header(png, info, &state)) refuse(name, state.message);
  const uint64_t height = png_get_image_height(png, info), width = png_get_image_width(png, info);
  check_size(name, height, width);
  const size_t channels = background ? 4 : 3;
  std::vector<uint8_t> pixels(channels * height * width);
  std::vector<png_bytep> rows(height);
  for (size_t y = 0; y < height; ++y) rows[y] = pixels.data() + channels * width * y;
  int orientation = 1;
  if (!png_pixels(png, info, background.has_value(), rows.data(), &orientation)) {
    refuse(name, state.message);
  }
  const int h = static_cast<int>(height), w = static_cast<int>(width);
  Image image = background ? over(pixels, h, w, *background) : Image{h, w, std::move(pixels)};
  return upright(std::move(image), orientation);
}

}  // namespace

Image decode(const uint8_t* data, size_t size, const std::optional<Colour>& background,
             const std::string& name) {
  static const uint8_t kPng[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  if (size >= 8 && std::memcmp(data, kPng, 8) == 0) {
    return decode_png(data, size, background, name);
  }
  if (size >= 3 && data[0] == 0xff && data[1] == 0xd8 && data[2] == 0xff) {
    return decode_jpeg(data, size, name);
  }
  refuse(name, "it is no JPEG and no PNG");
}

}  // namespace keras_featx
