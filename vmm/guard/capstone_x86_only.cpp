// SPDX-License-Identifier: Apache-2.0
#include "guard/capstone_x86_only.hpp"

#include <capstone/capstone.h>

// Capstone's table of architectures (cs.c) names all of them, so that the static archive drags in every
// disassembler: 4.9 MB, and 77,000 relocations at start that dirty 1.3 MiB of each monitor. With these in
// their place it is x86 alone. The linker has to meet them before it opens the archive: therefore the only
// call of cs_open() is in this file. Capstone 4.0.2 and 5.0.7 ask for two functions per architecture. Of one
// that is missing here tests/unit/guard/capstone_agreement_test.cpp tells.

extern "C" {

// cs_open() and cs_option() hand on what these return.
// NOLINTBEGIN(readability-identifier-naming): the names are Capstone's.
#define CASEMATE_NO_ARCHITECTURE(name)                                                                       \
    int name##_global_init(void* handle);                                                                    \
    int name##_option(void* handle, int option, unsigned long value);                                        \
    int name##_global_init(void* /*handle*/) {                                                               \
        return CS_ERR_ARCH;                                                                                  \
    }                                                                                                        \
    int name##_option(void* /*handle*/, int /*option*/, unsigned long /*value*/) {                           \
        return CS_ERR_ARCH;                                                                                  \
    }

CASEMATE_NO_ARCHITECTURE(AArch64)
CASEMATE_NO_ARCHITECTURE(ARM)
CASEMATE_NO_ARCHITECTURE(EVM)
CASEMATE_NO_ARCHITECTURE(M680X)
CASEMATE_NO_ARCHITECTURE(M68K)
CASEMATE_NO_ARCHITECTURE(Mips)
CASEMATE_NO_ARCHITECTURE(PPC)
CASEMATE_NO_ARCHITECTURE(Sparc)
CASEMATE_NO_ARCHITECTURE(SystemZ)
CASEMATE_NO_ARCHITECTURE(TMS320C64x)
CASEMATE_NO_ARCHITECTURE(XCore)
// Since Capstone 5; 4 never asks for them.
CASEMATE_NO_ARCHITECTURE(BPF)
CASEMATE_NO_ARCHITECTURE(MOS65XX)
CASEMATE_NO_ARCHITECTURE(RISCV)
CASEMATE_NO_ARCHITECTURE(SH)
CASEMATE_NO_ARCHITECTURE(TRICORE)
CASEMATE_NO_ARCHITECTURE(WASM)
#undef CASEMATE_NO_ARCHITECTURE
// NOLINTEND(readability-identifier-naming)
}

namespace casemate {

size_t open_capstone() {
    csh handle = 0;
    return cs_open(CS_ARCH_X86, CS_MODE_64, &handle) == CS_ERR_OK ? handle : 0;
}

} // namespace casemate
