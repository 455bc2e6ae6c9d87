// SPDX-License-Identifier: Apache-2.0
// A disk image that lives as long as its test.
#pragma once

#include "base/fd.hpp"
#include "base/log.hpp"

#include <cstdint>
#include <cstdlib>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <string>
#include <unistd.h>

namespace casemate::virtio {

struct TemporaryFile {
    std::string path;
    Fd file;
    explicit TemporaryFile(uint64_t bytes, const std::string& directory = "/tmp")
        : path(directory + "/casemate-disk-XXXXXX")
        , file(mkostemp(path.data(), O_CLOEXEC)) {
        REQUIRE(file);
        REQUIRE(ftruncate(file.get(), static_cast<off_t>(bytes)) == 0);
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    ~TemporaryFile() { unlink(path.c_str()); }
};

inline const Log quiet(-1);

} // namespace casemate::virtio
