// The threads that run a kernel together.
#pragma once

#include <atomic>
#include <thread>
#include <utility>

namespace autodeploy {

// What the threads of a team share. A waiting thread gives its core away after a while, since others may want it.
class Meeting {
  public:
    // Returns once all `threads` have come here.
    void wait(int threads) {
        const long met = met_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            arrived_.store(0, std::memory_order_relaxed);
            claimed.store(0, std::memory_order_relaxed);
            met_.store(met + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; met_.load(std::memory_order_acquire) == met;) {
            if (++spins < kSpins)
                pause();
            else
                std::this_thread::yield();
        }
    }

    alignas(64) std::atomic<long> claimed{0};
    void* shared = nullptr;

  private:
    static constexpr int kSpins = 256;

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<long> met_{0};
};

// One thread's view of its team. All threads of a team make the same calls of `barrier` and `lead`.
class Team {
  public:
    Team(Meeting& meeting, int thread, int threads) : thread(thread), threads(threads), meeting_(meeting) {}

    const int thread, threads;

    // This thread's even part [first, last) of `count` things.
    std::pair<long, long> share(long count) const {
        return {count * thread / threads, count * (thread + 1) / threads};
    }

    // The next of 0, 1, 2 … that no thread has claimed since the last barrier.
    long claim() const { return meeting_.claimed.fetch_add(1, std::memory_order_relaxed); }

    void barrier() const {
        if (threads > 1)
            meeting_.wait(threads);
        else
            meeting_.claimed.store(0, std::memory_order_relaxed);
    }

    // The object that make() gives to one of the threads, for all of them; it lives until `release`.
    template <class Make>
    auto* lead(Make make) const {
        if (thread == 0) meeting_.shared = make();
        barrier();
        return static_cast<decltype(make())>(meeting_.shared);
    }

    template <class Object>
    void release(Object* object) const {
        barrier();
        if (thread == 0) delete object;
    }

  private:
    Meeting& meeting_;
};

}  // namespace autodeploy
