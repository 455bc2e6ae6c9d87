// SPDX-License-Identifier: Apache-2.0
// Attack: what an attacking payload says on the console, and which of its attempts the command line asks for.
//
//   try NUMBER FORM                     before each attempt
//   attack NUMBER FORM OUTCOME [...]    after it; NUMBER is of the project's list of attacks
//   payload done                        at the end
//
// The command line: policy=none|read_only|die_on_write, only=FORM, from=N count=M (of the forms that are
// there).
#pragma once

#include "hypercall.hpp"

namespace payload {

enum class Policy : uint8_t { none, read_only, die_on_write };

// Reads the command line; a word it does not know, or locks that the monitor does not have, end the payload.
void start_attacks();
Policy policy();

// Locks pages as policy= says; nothing with none. A refusal ends the payload with "not ok".
void lock_pages(uint64_t address, uint64_t pages);

// Whether this attempt is asked for; each call counts one for from= and count=. Prints "try" when it is.
bool wanted(unsigned number, const char* form);

enum class Outcome : uint8_t {
    changed,     // bytes changed as the form would have it
    fault,       // nothing changed, #GP(0) at the very instruction
    unchanged,   // nothing changed and nothing was raised
    misreported, // nothing changed, but the exception is another one or elsewhere
    wrong,       // bytes changed otherwise than the form would have it
};
void print_outcome(unsigned number, const char* form, Outcome outcome, const char* detail = "");
void print_skipped(unsigned number, const char* form, const char* reason);
void print_other(unsigned number, const char* form, const char* outcome);

// What an attempt that must not change anything came to: `site` is the instruction's address.
Outcome judge(bool changed, const Caught& caught, uint64_t site);
// The detail of Outcome::misreported: vector, error, RIP, and where it should have been.
void print_judged(unsigned number, const char* form, bool changed, const Caught& caught, uint64_t site,
                  const char* detail = "");

// Ends what print_outcome() and its kin leave open when more is to be told.
void finish_attacks();

// Fresh pages that nothing else uses, from 16 MiB up.
uint64_t take_pages(uint64_t count);
void fill(uint64_t address, uint64_t bytes, uint8_t seed);
// Whether the bytes are as fill() left them.
bool is_filled(uint64_t address, uint64_t bytes, uint8_t seed);

} // namespace payload
