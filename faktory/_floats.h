/* Write doubles as JSON: the shortest digits that are read back as the same number.

   The algorithm is from Raffaello Giulietti, "The Schubfach way to render doubles" (2020); names
   follow the paper. `test_json_write.py` compares the result with `float.__repr__`. */

#ifndef FAKTORY_FLOATS_H
#define FAKTORY_FLOATS_H

#include "_chars.h"

/* A power of ten: its leading 128 bits, rounded up. A table in the source would be too long to
   read, so `_proto.pyx` computes the powers when the first float is written. */
typedef struct {
    uint64_t high, low;
} power_t;

#define LEAST_POWER (-292)
#define MOST_POWER 324
static power_t powers[MOST_POWER - LEAST_POWER + 1];

/* Return floor(log2(10^e)); exact for |e| up to 1233. */
static inline int log2_of_ten(int e) {
    return (e * 1741647) >> 19;
}

#if defined(__SIZEOF_INT128__) && !defined(FAKTORY_PORTABLE)
static inline uint64_t multiply(uint64_t a, uint64_t b, uint64_t *low) {
    unsigned __int128 product = (unsigned __int128)a * b;
    *low = (uint64_t)product;
    return (uint64_t)(product >> 64);
}
#else
static inline uint64_t multiply(uint64_t a, uint64_t b, uint64_t *low) {
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t p00 = a0 * b0, p01 = a0 * b1, p10 = a1 * b0;
    uint64_t middle = (p00 >> 32) + (uint32_t)p01 + (uint32_t)p10;
    *low = middle << 32 | (uint32_t)p00;
    return a1 * b1 + (p01 >> 32) + (p10 >> 32) + (middle >> 32);
}
#endif

/* Return the upper part of power * c; its last bit is set if bits were lost below it. */
static inline uint64_t round_to_odd(power_t power, uint64_t c) {
    uint64_t low, ignored;
    uint64_t carry = multiply(power.low, c, &ignored);
    uint64_t upper = multiply(power.high, c, &low);
    low += carry;
    upper += low < carry;
    return upper | (low > 1);
}

/* Return the shortest decimal digits that round to the double, and among these the closest ones, as
   an integer with the power of ten in *exponent. */
static inline uint64_t shortest(uint64_t fraction, int biased, int *exponent) {
    uint64_t c = biased ? fraction | UINT64_C(1) << 52 : fraction;
    int q = (biased ? biased : 1) - 1075;
    uint64_t odd = c & 1;
    uint64_t closer = fraction == 0 && biased > 1;  /* the next lower double is half as far */
    int k = (q * 1262611 - (closer ? 524031 : 0)) >> 22;
    int h = q + log2_of_ten(-k) + 1;
    power_t g = powers[-k - LEAST_POWER];
    uint64_t vl = round_to_odd(g, (4 * c - 2 + closer) << h) + odd;
    uint64_t v = round_to_odd(g, 4 * c << h);
    uint64_t vr = round_to_odd(g, (4 * c + 2) << h) - odd;
    uint64_t s = v / 4, t = s / 10 * 40;
    int under = vl <= t, over = t + 40 <= vr;
    if (s >= 10 && under != over) {
        *exponent = k + 1;
        return s / 10 + (uint64_t)over;
    }
    under = vl <= 4 * s;
    over = 4 * s + 4 <= vr;
    *exponent = k;
    if (under != over)
        return s + (uint64_t)over;
    return s + (v > 4 * s + 2 || (v == 4 * s + 2 && (s & 1)));
}

/* Write digits * 10^exponent like Python: plain, or with an exponent for long numbers. */
static inline char *put_decimal(char *p, uint64_t digits, int exponent) {
    for (; digits % 16 == 0 && digits % 10000 == 0; digits /= 10000)
        exponent += 4;
    for (; digits % 2 == 0 && digits % 10 == 0; digits /= 10)
        exponent++;
    char *first = p + 1;  /* leaves room before it for the point or the first digit */
    char *end = put_integer(first, (int64_t)digits);
    int count = (int)(end - first), point = count + exponent;
    if (point > 16 || point <= -4) {
        p[0] = first[0];
        p[1] = '.';
        p = count > 1 ? end : p + 1;
        *p++ = 'e';
        point--;
        *p++ = point < 0 ? '-' : '+';
        if (point < 0)
            point = -point;
        if (point >= 100) {
            *p++ = (char)('0' + point / 100);
            point %= 100;
        }
        *p++ = (char)('0' + point / 10);
        *p++ = (char)('0' + point % 10);
        return p;
    }
    char all[40];  /* moving a fixed size is faster than moving the actual digits */
    memcpy(all, first, 24);
    memset(all + 24, 0, 16);
    if (point <= 0) {
        memcpy(p, "0.000", 5);
        memcpy(p + 2 - point, all, 24);
        return p + 2 - point + count;
    }
    memcpy(p, all, 24);
    if (point < count) {
        p[point] = '.';
        memcpy(p + point + 1, all + point, 17);
        return end;
    }
    memcpy(p + count, "0000000000000000", 16);
    memcpy(p + point, ".0", 2);
    return p + point + 2;
}

/* Write a finite double, at most 24 bytes, with 48 bytes of room; `powers` must be filled. */
static inline char *put_double(char *p, double number) {
    uint64_t bits, fraction;
    int exponent;
    memcpy(&bits, &number, 8);
    if (bits >> 63)
        *p++ = '-';
    if (bits << 1 == 0) {
        memcpy(p, "0.0", 3);
        return p + 3;
    }
    double size = number < 0 ? -number : number;
    if (EXACT_QUOTIENT && size < 1e12) {
        /* Up to three decimals: no other number of at most 15 digits is read as this double, so
           without trailing zeros this one is the shortest. */
        double thousandfold = size * 1000;
        int64_t digits = (int64_t)thousandfold;
        if ((double)digits == thousandfold && digits && (double)digits / 1000 == size)
            return put_decimal(p, (uint64_t)digits, -3);
    }
    fraction = bits & ((UINT64_C(1) << 52) - 1);
    uint64_t digits = shortest(fraction, (int)(bits >> 52 & 0x7FF), &exponent);
    return put_decimal(p, digits, exponent);
}

#endif
