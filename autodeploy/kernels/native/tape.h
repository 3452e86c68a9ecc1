// Running a kernel now, and writing down how it runs, so that a whole step is run again by one call.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/custom_class.h>

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "team.h"

namespace autodeploy {

using Work = std::function<void(const Team&)>;

// Runs `work` on `threads` threads; while a tape is recording, that is also put on the tape, to be run there by one
// thread or by all (with `at_hand`: by all that other work has called together). What the work points to must stay where
// it is for as long as the tape lives: weights, the cache, and what `allocate` gave.
void launch(int threads, Work work, bool at_hand = false);

// Uninitialized memory for a result. While a tape is recording it is the tape's, and used again once nobody holds it.
at::Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options);

// x itself where it is `usable`, else a dense copy.
at::Tensor dense_unless(bool usable, const at::Tensor& x);

// Memory that is handed out again as soon as it comes back: during a replay, as during the recording, nobody needs it
// then any more.
class Arena {
  public:
    Arena() = default;
    Arena(const Arena&) = delete;
    ~Arena();

    void* take(std::size_t bytes);
    void give_back(void* block, std::size_t bytes) { free_[bytes].push_back(block); }

  private:
    std::vector<void*> blocks_;
    std::map<std::size_t, std::vector<void*>> free_;  // by size
};

// Kernels as they were launched while it recorded, in order.
class Tape : public torch::CustomClassHolder {
  public:
    // From here on the launches of this thread are recorded, until `stop`.
    void start();
    void stop();

    // Runs calls [first, last) again.
    void replay(int64_t first, int64_t last) const;

    int64_t size() const { return int64_t(calls_.size()); }

    void add(int threads, Work work, bool at_hand);

    const std::shared_ptr<Arena> arena = std::make_shared<Arena>();

  private:
    struct Call {
        bool alone;  // on one thread
        Work work;
    };

    std::vector<Call> calls_;
    bool has_wide_ = false;  // work for which several threads are worth their while
};

}  // namespace autodeploy
