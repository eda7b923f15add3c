// Calls one launcher of a kernel's source on buffers from a file: driver NAME INPUT OUTPUT.
//
// INPUT: int64 size of the argument structure, its bytes, int64 number of buffers; then for each buffer int64
// offset of its pointer in the structure, int64 size, int64 distance from a multiple of 16, its bytes. Each buffer
// is an allocation of its own that ends where the buffer ends. OUTPUT: the bytes of all buffers after the call.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <vector>

static void read_exactly(void* to, size_t size, FILE* file) {
    if (size && std::fread(to, 1, size, file) != size) std::exit(4);
}

static int64_t read_number(FILE* file) {
    int64_t number;
    read_exactly(&number, sizeof number, file);
    return number;
}

int main(int argc, char** argv) {
    if (argc != 4) return 4;
    using Launcher = int (*)(const void*, void*);
    auto launcher = reinterpret_cast<Launcher>(dlsym(RTLD_DEFAULT, argv[1]));
    FILE* input = std::fopen(argv[2], "rb");
    if (!launcher || !input) return 4;

    std::vector<char> arguments(read_number(input));
    read_exactly(arguments.data(), arguments.size(), input);
    std::vector<std::pair<char*, size_t>> buffers(read_number(input));
    for (auto& [start, size] : buffers) {
        const int64_t offset = read_number(input);
        size = read_number(input);
        const int64_t shift = read_number(input);
        start = static_cast<char*>(std::malloc(size + shift)) + shift;
        read_exactly(start, size, input);
        std::memcpy(arguments.data() + offset, &start, sizeof start);
    }
    const int error = launcher(arguments.data(), nullptr);
    if (error) {
        std::fprintf(stderr, "the launcher returned %d\n", error);
        return 5;
    }
    FILE* output = std::fopen(argv[3], "wb");
    for (auto& [start, size] : buffers)
        if (std::fwrite(start, 1, size, output) != size) return 4;
    std::fclose(output);
    return 0;
}
