// The one exception of this library.
#pragma once

#include <stdexcept>
#include <string>

namespace keras_featx {

// Of whom the fault is; the numbers are the exit status of `embed`.
enum class Fault { kImage = 1, kUse = 2 };

// What a person is told, in one line.
class Error : public std::runtime_error {
 public:
  Error(Fault fault, const std::string& message) : std::runtime_error(message), fault(fault) {}
  const Fault fault;
};

}  // namespace keras_featx
