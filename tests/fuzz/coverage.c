/* Report to libFuzzer which code of the compiled core ran.

   gcc calls __sanitizer_cov_trace_pc at every branch; libFuzzer watches an array of counters. The
   hash of the code's address selects the counter. */

#include <stdint.h>

#define COUNTERS 16384

void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *stop);
void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *stop);

static uint8_t counters[COUNTERS];
static uintptr_t places[COUNTERS][2]; /* an address for each counter, and no flags */

__attribute__((visibility("hidden"))) void __sanitizer_cov_trace_pc(void) {
    uint64_t place = (uint64_t)((uintptr_t)__builtin_return_address(0) - (uintptr_t)counters);
    uint8_t *counter = &counters[place * UINT64_C(0x9E3779B97F4A7C15) >> 50];
    *counter += *counter != 255;
}

/* gcc's comparisons of floats, which libFuzzer does not implement. */
void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a, (void)b; }

__attribute__((constructor)) static void start(void) {
    for (int i = 0; i < COUNTERS; i++)
        places[i][0] = (uintptr_t)&counters[i];
    __sanitizer_cov_8bit_counters_init(counters, counters + COUNTERS);
    __sanitizer_cov_pcs_init(places[0], places[COUNTERS]);
}
