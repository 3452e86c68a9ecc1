// The tape: a CPU's counterpart of a CUDA graph.
#include "tape.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <omp.h>
#include <torch/library.h>

#include <cstdlib>

namespace autodeploy {
namespace {

thread_local Tape* recording = nullptr;

template <class Run>
void with_team(int threads, Run run) {
    Meeting meeting;
    if (threads <= 1) return run(Team(meeting, 0, 1));
#pragma omp parallel num_threads(threads)
    run(Team(meeting, omp_get_thread_num(), omp_get_num_threads()));
}

}  // namespace

void launch(int threads, Work work, bool at_hand) {
    with_team(threads, work);
    if (recording) recording->add(threads, std::move(work), at_hand);
}

at::Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options) {
    if (!recording) return at::empty(sizes, options);
    std::size_t bytes = options.dtype().itemsize();
    for (int64_t size : sizes) bytes *= size;
    auto arena = recording->arena;
    return at::from_blob(arena->take(bytes), sizes, [arena, bytes](void* p) { arena->give_back(p, bytes); }, options);
}

at::Tensor dense_unless(bool usable, const at::Tensor& x) {
    if (usable) return x;
    at::Tensor copy = allocate(x.sizes(), x.options());
    launch(1, [copy, x](const Team&) { copy.copy_(x); });  // holds x, of which nobody else may
    return copy;
}

void Tape::start() {
    TORCH_CHECK(!recording, "autodeploy_native: another tape is recording on this thread");
    recording = this;
}

void Tape::stop() { recording = nullptr; }

void Tape::add(int threads, Work work, bool at_hand) {
    calls_.push_back({threads <= 1 && !at_hand, std::move(work)});
    has_wide_ |= threads > 1 && !at_hand;
}

void Tape::replay(int64_t first, int64_t last) const {
    with_team(has_wide_ ? at::get_num_threads() : 1, [&](const Team& team) {
        Meeting nobody;
        const Team alone(nobody, 0, 1);
        for (int64_t i = first; i < last; ++i) {
            if (!calls_[i].alone) {
                calls_[i].work(team);
                team.barrier();
                continue;
            }
            if (team.thread == 0) {
                calls_[i].work(alone);
                alone.barrier();
            }
            const bool more = i + 1 < last && calls_[i + 1].alone;  // thread 0 goes on by itself
            if (!more) team.barrier();
        }
    });
}

Arena::~Arena() {
    for (void* block : blocks_) std::free(block);
}

void* Arena::take(std::size_t bytes) {
    std::vector<void*>& blocks = free_[bytes];
    if (blocks.empty()) {
        constexpr std::size_t line = 64;
        blocks_.push_back(std::aligned_alloc(line, (bytes / line + 1) * line));
        return blocks_.back();
    }
    void* block = blocks.back();
    blocks.pop_back();
    return block;
}

}  // namespace autodeploy

TORCH_LIBRARY_FRAGMENT(autodeploy_native, m) {
    m.class_<autodeploy::Tape>("Tape")
        .def(torch::init<>())
        .def("start", &autodeploy::Tape::start)
        .def("stop", &autodeploy::Tape::stop)
        .def("replay", &autodeploy::Tape::replay)
        .def("size", &autodeploy::Tape::size);
}
