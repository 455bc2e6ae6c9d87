// SPDX-License-Identifier: Apache-2.0
// Stand-ins for Capstone's architectures other than x86. Its table of architectures (cs.c) names all of them,
// so without these the static archive drags in every disassembler: 4 MB, of which relocations at start would
// dirty 700 KiB of each monitor. The linker takes these first and leaves the archive's members out.
// Capstone 4.0.2 defines two functions per architecture; a later version that adds one still links.

extern "C" {

// cs_open() and cs_option() hand on what these return; 2 is CS_ERR_ARCH, "unsupported architecture".
// NOLINTBEGIN(readability-identifier-naming): the names are Capstone's.
#define CASEMATE_NO_ARCHITECTURE(name)                                                                       \
    int name##_global_init(void* handle);                                                                    \
    int name##_option(void* handle, int option, unsigned long value);                                        \
    int name##_global_init(void* /*handle*/) {                                                               \
        return 2;                                                                                            \
    }                                                                                                        \
    int name##_option(void* /*handle*/, int /*option*/, unsigned long /*value*/) {                           \
        return 2;                                                                                            \
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
#undef CASEMATE_NO_ARCHITECTURE
// NOLINTEND(readability-identifier-naming)
}
