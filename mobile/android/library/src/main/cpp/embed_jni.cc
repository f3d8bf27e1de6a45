// The C++ library for Kotlin; Native.kt has the other side.
#include <jni.h>

#include <cmath>
#include <cstring>
#include <exception>
#include <limits>

#include "keras_featx/gallery.h"
#include "keras_featx/model.h"

namespace {

using keras_featx::Gallery;
using keras_featx::Image;
using keras_featx::Match;
using keras_featx::Model;

// Runs, and makes an exception of C++ one of Kotlin.
template <typename Action>
auto guarded(JNIEnv* env, const Action& action) -> decltype(action()) {
  try {
    return action();
  } catch (const std::exception& error) {
    if (!env->ExceptionCheck()) {
      env->ThrowNew(env->FindClass("kerasfeatx/EmbedException"), error.what());
    }
  }
  return decltype(action())();
}

// Through bytes, as JNI's own text is not quite UTF-8.
std::string text(JNIEnv* env, jstring value) {
  const jclass type = env->FindClass("java/lang/String");
  const jmethodID method = env->GetMethodID(type, "getBytes", "(Ljava/lang/String;)[B");
  const jstring charset = env->NewStringUTF("UTF-8");
  const auto bytes = static_cast<jbyteArray>(env->CallObjectMethod(value, method, charset));
  std::string found(env->GetArrayLength(bytes), '\0');
  env->GetByteArrayRegion(bytes, 0, static_cast<jsize>(found.size()),
                          reinterpret_cast<jbyte*>(found.data()));
  return found;
}

jstring text(JNIEnv* env, const std::string& value) {
  const jclass type = env->FindClass("java/lang/String");
  const jmethodID make = env->GetMethodID(type, "<init>", "([BLjava/lang/String;)V");
  const auto length = static_cast<jsize>(value.size());
  const jbyteArray bytes = env->NewByteArray(length);
  env->SetByteArrayRegion(bytes, 0, length, reinterpret_cast<const jbyte*>(value.data()));
  const jstring charset = env->NewStringUTF("UTF-8");
  return static_cast<jstring>(env->NewObject(type, make, bytes, charset));
}

Model* model_of(jlong handle) { return reinterpret_cast<Model*>(handle); }
Gallery* gallery_of(jlong handle) { return reinterpret_cast<Gallery*>(handle); }

jfloatArray floats(JNIEnv* env, const std::vector<float>& values) {
  const auto length = static_cast<jsize>(values.size());
  const jfloatArray found = env->NewFloatArray(length);
  if (found) env->SetFloatArrayRegion(found, 0, length, values.data());
  return found;
}

Image from_argb(const Model& model, const std::vector<jint>& pixels, int height, int width) {
  Image image{height, width, std::vector<uint8_t>(3 * pixels.size())};
  const auto& background = model.preprocess().background;
  for (size_t i = 0; i < pixels.size(); ++i) {
    const auto value = static_cast<uint32_t>(pixels[i]);
    const float absent = static_cast<float>(255 - (value >> 24)) / 255.0f;
    for (int c = 0; c < 3; ++c) {
      const uint8_t colour = value >> (16 - 8 * c) & 255;
      image.pixels[3 * i + c] =
          background ? static_cast<uint8_t>(std::nearbyintf(
                           colour + ((*background)[c] - colour) * absent))
                     : colour;
    }
  }
  return image;
}

}  // namespace

#define FUNCTION(type, name) extern "C" JNIEXPORT type JNICALL Java_kerasfeatx_Native_##name

FUNCTION(jlong, openModel)(JNIEnv* env, jobject, jstring path, jint threads) {
  return guarded(env, [&] { return reinterpret_cast<jlong>(new Model(text(env, path), threads)); });
}

FUNCTION(void, closeModel)(JNIEnv*, jobject, jlong model) { delete model_of(model); }

FUNCTION(jintArray, imageSize)(JNIEnv* env, jobject, jlong model) {
  const jint size[] = {model_of(model)->height(), model_of(model)->width()};
  const jintArray found = env->NewIntArray(2);
  if (found) env->SetIntArrayRegion(found, 0, 2, size);
  return found;
}

FUNCTION(jstring, modelFingerprint)(JNIEnv* env, jobject, jlong model) {
  return text(env, model_of(model)->fingerprint());
}

FUNCTION(jfloatArray, embedArgb)
(JNIEnv* env, jobject, jlong model, jintArray pixels, jint height, jint width) {
  return guarded(env, [&] {
    std::vector<jint> values(env->GetArrayLength(pixels));
    env->GetIntArrayRegion(pixels, 0, static_cast<jsize>(values.size()), values.data());
    const Image image = from_argb(*model_of(model), values, height, width);
    return floats(env, model_of(model)->embed(image));
  });
}

FUNCTION(jfloatArray, embedRgb)
(JNIEnv* env, jobject, jlong model, jbyteArray pixels, jint height, jint width) {
  return guarded(env, [&] {
    Image image{height, width, std::vector<uint8_t>(env->GetArrayLength(pixels))};
    env->GetByteArrayRegion(pixels, 0, static_cast<jsize>(image.pixels.size()),
                            reinterpret_cast<jbyte*>(image.pixels.data()));
    return floats(env, model_of(model)->embed(image));
  });
}

FUNCTION(jlong, openGallery)
(JNIEnv* env, jobject, jstring path, jstring fingerprint, jboolean check) {
  return guarded(env, [&] {
    return reinterpret_cast<jlong>(new Gallery(text(env, path), text(env, fingerprint), check));
  });
}

FUNCTION(void, closeGallery)(JNIEnv*, jobject, jlong gallery) { delete gallery_of(gallery); }

FUNCTION(jlong, gallerySize)(JNIEnv*, jobject, jlong gallery) {
  return static_cast<jlong>(gallery_of(gallery)->items());
}

FUNCTION(jfloat, threshold)(JNIEnv*, jobject, jlong gallery) {
  return gallery_of(gallery)->threshold().value_or(std::numeric_limits<float>::quiet_NaN());
}

FUNCTION(jobjectArray, search)(JNIEnv* env, jobject, jlong gallery, jfloatArray query, jint k) {
  return guarded(env, [&] {
    std::vector<float> values(env->GetArrayLength(query));
    env->GetFloatArrayRegion(query, 0, static_cast<jsize>(values.size()), values.data());
    const std::vector<Match> matches = gallery_of(gallery)->search(values, k);
    const jclass type = env->FindClass("kerasfeatx/Match");
    const jmethodID make = env->GetMethodID(type, "<init>", "(Ljava/lang/String;FJ)V");
    const auto length = static_cast<jsize>(matches.size());
    const jobjectArray found = env->NewObjectArray(length, type, nullptr);
    for (jsize i = 0; found && i < length; ++i) {
      const jstring name = text(env, matches[i].identity);
      const jobject one = env->NewObject(type, make, name, matches[i].similarity,
                                         static_cast<jlong>(matches[i].item));
      env->SetObjectArrayElement(found, i, one);
      env->DeleteLocalRef(one);
      env->DeleteLocalRef(name);
    }
    return found;
  });
}
