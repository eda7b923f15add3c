// Runs the threads of a block: as fibres with an assembly switch (fast; any order of threads), or, with
// EMULATE_WITH_THREADS, as threads of the system for ThreadSanitizer. Environment: EMULATION_ORDER = forward,
// reverse or a number that seeds a shuffle (of the blocks and, for fibres, of the threads).
#include "cuda_runtime.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

constexpr size_t kSharedLimit = 99 * 1024;  // sm_86 and sm_89 have the least of the architectures built for
alignas(1024) unsigned char shared_memory[kSharedLimit + 1024];
thread_local uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim, gridDim;

namespace emulation {
namespace {

// Ends the process. Not declared as [[noreturn]], before which AddressSanitizer would look for the stack's end.
void fail(const std::string& what) {
    std::fprintf(stderr, "emulation: %s in thread (%u, %u, %u) of block (%u, %u, %u)\n", what.c_str(), threadIdx.x,
                 threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
    std::fflush(stderr);
    syscall(SYS_exit_group, 3);
}

unsigned thread_number() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

// Where a thread waits: at a barrier of a file, or for the lanes of a mask.
struct Place {
    const char* file;
    int line;
    unsigned mask;
};

std::string hexadecimal(unsigned mask) {
    char text[16];
    std::snprintf(text, sizeof text, "%08x", mask);
    return text;
}

// Where threads meet. `ordered` makes what they wrote before visible, which a shuffle does not promise.
struct Meeting {
    std::atomic<unsigned> mask{0}, arrived{0}, generation{0};
    std::atomic<uint32_t> words[2][32][kMaxWords];

    void meet(unsigned expected, bool ordered, const Place& place);
};

struct Warp {
    Meeting meetings[16];  // one for each mask in use

    Meeting& at(unsigned mask) {
        for (Meeting& meeting : meetings) {
            unsigned other = 0;
            if (meeting.mask.load() == mask || meeting.mask.compare_exchange_strong(other, mask) || other == mask)
                return meeting;
        }
        fail("more than 16 masks");
        return meetings[0];
    }
};

struct Block {
    Meeting barrier;
    std::array<Warp, 32> warps;
};
std::unique_ptr<Block> block;

std::vector<unsigned> order_of(unsigned count) {
    std::vector<unsigned> order(count);
    std::iota(order.begin(), order.end(), 0u);
    const char* setting = std::getenv("EMULATION_ORDER");
    const std::string name = setting ? setting : "forward";
    if (name == "reverse") std::reverse(order.begin(), order.end());
    else if (name != "forward") std::shuffle(order.begin(), order.end(), std::mt19937(std::stoul(name)));
    return order;
}

#ifdef EMULATE_WITH_THREADS

void wait_for_change(const std::atomic<unsigned>& generation, unsigned now, std::memory_order order, const Place&) {
    generation.wait(now, order);
}
void has_advanced(std::atomic<unsigned>& generation) { generation.notify_all(); }

void run_block(const std::function<void()>& thread) {
    std::vector<std::thread> threads;
    for (unsigned z = 0; z < blockDim.z; ++z)
        for (unsigned y = 0; y < blockDim.y; ++y)
            for (unsigned x = 0; x < blockDim.x; ++x)
                threads.emplace_back([=, &thread] {
                    threadIdx = {x, y, z};
                    thread();
                });
    for (std::thread& each : threads) each.join();
}

#else

// switch_stack(where to save the stack pointer, the stack pointer to continue with)
extern "C" void switch_stack(void** kept, void* next);
asm(R"(
    .text
    .globl switch_stack
switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

constexpr size_t kStack = 256 * 1024;
struct Fibre {
    char* stack = static_cast<char*>(
        mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    void* pointer = nullptr;
    uint3 index{};
    bool done = false;
    Place waits_for{};
};
std::vector<Fibre> fibres(1024);
std::vector<unsigned> schedule;  // the block's fibres in the order in which they take turns
size_t turn = 0;
unsigned turns_without_advance = 0;
void* main_pointer = nullptr;
const std::function<void()>* body = nullptr;

void has_advanced(const std::atomic<unsigned>&) { turns_without_advance = 0; }

// Continues with the next fibre that is not done, or with the caller of run_block where there is none.
void next_fibre() {
    Fibre& here = fibres[schedule[turn]];
    for (size_t step = 1; step <= schedule.size(); ++step) {
        const size_t next = (turn + step) % schedule.size();
        if (fibres[schedule[next]].done) continue;
        turn = next;
        Fibre& there = fibres[schedule[turn]];
        threadIdx = there.index;
        if (&there != &here) switch_stack(&here.pointer, there.pointer);
        return;
    }
    switch_stack(&here.pointer, main_pointer);
}

void report_deadlock() {
    std::map<std::string, unsigned> states;
    for (unsigned number : schedule) {
        const auto& [file, line, mask] = fibres[number].waits_for;
        if (fibres[number].done) ++states["ended"];
        else if (file) ++states[std::string("at the barrier ") + file + ":" + std::to_string(line)];
        else ++states["at an operation of mask " + hexadecimal(mask)];
    }
    std::string report = "deadlock:";
    for (const auto& [state, count] : states) report += " " + std::to_string(count) + " threads " + state + ";";
    fail(report);
}

void wait_for_change(const std::atomic<unsigned>& generation, unsigned now, std::memory_order order,
                     const Place& place) {
    fibres[schedule[turn]].waits_for = place;
    while (generation.load(order) == now) {
        if (++turns_without_advance > 2 * schedule.size()) report_deadlock();
        next_fibre();
    }
}

void fibre_main() {
    (*body)();
    fibres[schedule[turn]].done = true;
    turns_without_advance = 0;
    next_fibre();
}

void run_block(const std::function<void()>& thread) {
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    body = &thread;
    schedule = order_of(count);
    for (unsigned i = 0; i < count; ++i) {
        Fibre& fibre = fibres[i];
        ASAN_UNPOISON_MEMORY_REGION(fibre.stack, kStack);
        void** top = reinterpret_cast<void**>(fibre.stack + kStack) - 10;  // six registers, then where to return to
        std::memset(top, 0, 10 * sizeof(void*));
        top[6] = reinterpret_cast<void*>(&fibre_main);
        fibre.pointer = top;
        fibre.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        fibre.done = false;
    }
    turn = 0;
    turns_without_advance = 0;
    threadIdx = fibres[schedule[0]].index;
    switch_stack(&main_pointer, fibres[schedule[0]].pointer);
}

#endif

void Meeting::meet(unsigned expected, bool ordered, const Place& place) {
    const unsigned now = generation.load(std::memory_order_relaxed);
    const auto order = ordered ? std::memory_order_acq_rel : std::memory_order_relaxed;
    if (arrived.fetch_add(1, order) + 1 == expected) {
        arrived.store(0, std::memory_order_relaxed);
        generation.store(now + 1, std::memory_order_release);
        has_advanced(generation);
        return;
    }
    wait_for_change(generation, now, ordered ? std::memory_order_acquire : std::memory_order_relaxed, place);
}

Meeting& meeting_of(unsigned mask) {
    if (!(mask >> lane() & 1)) fail("lane " + std::to_string(lane()) + " is not in its own mask " + hexadecimal(mask));
    return block->warps[thread_number() / 32].at(mask);
}

std::map<const void*, size_t> allowed_shared;

}  // namespace

int lane() { return static_cast<int>(thread_number() % 32); }

void barrier(const char* file, int line) {
    block->barrier.meet(blockDim.x * blockDim.y * blockDim.z, true, {file, line, 0});
}

void sync_warp(unsigned mask) { meeting_of(mask).meet(__builtin_popcount(mask), true, {nullptr, 0, mask}); }

Exchange exchange(unsigned mask, const uint32_t* words, int count) {
    Meeting& meeting = meeting_of(mask);
    // Two sets of words, used in turn: nobody writes a set before all have read what it held.
    auto& slots = meeting.words[meeting.generation.load(std::memory_order_relaxed) % 2];
    for (int i = 0; i < count; ++i) slots[lane()][i].store(words[i], std::memory_order_relaxed);
    meeting.meet(__builtin_popcount(mask), false, {nullptr, 0, mask});
    return {slots, mask};
}

uint32_t Exchange::word(int source, int index) const {
    if (source < 0 || source > 31 || !(mask >> source & 1))
        fail("lane " + std::to_string(lane()) + " reads lane " + std::to_string(source) + " outside of mask " +
             hexadecimal(mask));
    return words[source][index].load(std::memory_order_relaxed);
}

cudaError_t allow_shared(const void* kernel, int num_bytes) {
    if (num_bytes < 0 || static_cast<size_t>(num_bytes) > kSharedLimit) return cudaErrorInvalidValue;
    allowed_shared[kernel] = static_cast<size_t>(num_bytes);
    return cudaSuccess;
}

cudaError_t run_grid(const cudaLaunchConfig_t& launch, const void* kernel, const std::function<void()>& thread) {
    const size_t threads = size_t{launch.blockDim.x} * launch.blockDim.y * launch.blockDim.z;
    const size_t allowed = allowed_shared.count(kernel) ? allowed_shared[kernel] : 48 * 1024;
    const dim3 grid = launch.gridDim;
    if (threads == 0 || threads > 1024 || threads % 32 != 0 || launch.dynamicSmemBytes > allowed || grid.x == 0 ||
        grid.x > 0x7fffffffu || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535)
        return cudaErrorInvalidValue;
    gridDim = grid;
    blockDim = launch.blockDim;
    ASAN_POISON_MEMORY_REGION(shared_memory, sizeof shared_memory);
    ASAN_UNPOISON_MEMORY_REGION(shared_memory, launch.dynamicSmemBytes);
    for (unsigned number : order_of(grid.x * grid.y * grid.z)) {
        blockIdx = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
        std::memset(shared_memory, 0xff, launch.dynamicSmemBytes);  // NaN in every floating-point type
        block = std::make_unique<Block>();
        run_block(thread);
    }
    return cudaSuccess;
}

}  // namespace emulation
