// The device code of the sample model, where it stands in templates/, through NVRTC: for sm_90, or
// for the compute capabilities given as arguments (0 is PTX). It includes no toolkit header: NVRTC is
// given our files and sees no others.
#include "compiler/exlc.h"
#include "tests/check.h"
#include <stdlib.h>

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
    }
    return check_done();
}
