// The device code of the sample model, where it stands in templates/, through NVRTC: for sm_90, or
// for the compute capabilities given as arguments (0 is PTX). It includes no toolkit header: NVRTC is
// given our files and sees no others. With arguments also that quantized caches cost one of 16 bits
// nothing: its decode kernels are the ones of a program that has no others.
#include "compiler/exlc.h"
#include "tests/check.h"
#include <elf.h>
#include <stdlib.h>

// A kernel's code in a cubin.
static const char *code_of(const Buffer *image, const char *kernel, size_t *bytes)
{
    const Elf64_Ehdr *elf = (const Elf64_Ehdr *)image->data;
    const Elf64_Shdr *section = (const Elf64_Shdr *)(image->data + elf->e_shoff);
    const char *names = image->data + section[elf->e_shstrndx].sh_offset;
    for (int i = 0; i < elf->e_shnum; i++) {
        const char *name = names + section[i].sh_name;
        if (strncmp(name, ".text.", 6) || strcmp(name + 6, kernel)) continue;
        *bytes = section[i].sh_size;
        return image->data + section[i].sh_offset;
    }
    return NULL;
}

static void check_16_bits(const Buffer *all_widths, const SourceFile *given, int count, int sm)
{
    static const char *const kernels[] = {"decode_pass", "decode_pass_wide", "decode_step",
                                          "decode_step_wide"};
    SourceFile files[64];
    Buffer constants = {0}, image = {0};
    memcpy(files, given, (size_t)count * sizeof *files);
    buffer_print(&constants, "%s\n#undef QUANTIZED_CACHE\n", files[1].text);
    files[1].text = constants.data;
    compile_device(files, count, "forward.cu", sm, (const char *[]){NULL}, &image);
    for (int i = 0; i < 4; i++) {
        size_t bytes = 0, bytes_16 = 0;
        const char *code = code_of(all_widths, kernels[i], &bytes);
        const char *code_16 = code_of(&image, kernels[i], &bytes_16);
        CHECK_MSG(code && code_16 && bytes == bytes_16 && memcmp(code, code_16, bytes) == 0,
                  "sm_%d %s: %zu bytes, %zu where the cache has 16 bits", sm, kernels[i], bytes,
                  bytes_16);
    }
    size_t bytes;
    CHECK(code_of(all_widths, "decode_pass_quantized", &bytes) != NULL);
    CHECK(code_of(&image, "decode_pass_quantized", &bytes) == NULL);
    buffer_free(&constants);
    buffer_free(&image);
}

int main(int argc, char **argv)
{
    if (!nvrtc_present()) {
        SKIP("libnvrtc was not found, so no device code was compiled");
        return check_done();
    }
    SourceFile files[64];
    int count = 0;
    files[count++] = (SourceFile){"forward.cu", read_file("templates/forward.cu").data};
    files[count++] = (SourceFile){"constants.h", read_file("templates/constants.h").data};
    files[count++] = (SourceFile){"forward.inc", read_file("templates/forward.inc").data};
    for (const char *const *name = embedded_names(); *name; name++) {
        size_t bytes;
        if (strncmp(*name, "kernels/", 8) == 0 && strncmp(*name, "kernels/cpu/", 12) != 0)
            files[count++] = (SourceFile){*name, embedded_text(*name, &bytes)};
    }
    for (int i = 1; i < (argc > 1 ? argc : 2); i++) {
        int sm = argc > 1 ? atoi(argv[i]) : 90;
        Buffer image = {0};
        compile_device(files, count, "forward.cu", sm, (const char *[]){NULL}, &image);
        int elf = image.bytes > 4 && memcmp(image.data, "\177ELF", 4) == 0;
        int ptx = image.data && strstr(image.data, ".target sm_80") != NULL;
        CHECK_MSG(sm ? elf : ptx, "sm_%d gave no code", sm);
        CHECK_MSG(memmem(image.data, image.bytes, "qkv_m4_m4_m4", 12) != NULL,
                  "sm_%d lacks a kernel", sm);
        if (argc > 1 && sm) check_16_bits(&image, files, count, sm);
    }
    return check_done();
}
