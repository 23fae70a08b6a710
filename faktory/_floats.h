/* Doubles in JSON: written with the shortest digits that are read back as the same number, and read.

   The algorithm that writes is from Raffaello Giulietti, "The Schubfach way to render doubles" (2020);
   names follow the paper. The one that reads is that of Daniel Lemire, "Number Parsing at a Gigabyte
   per Second" (2021). `test_json_write.py` compares the first with `float.__repr__`, and
   `test_json_read.py` the second with `float`. */

#ifndef FAKTORY_FLOATS_H
#define FAKTORY_FLOATS_H

#include "_chars.h"

/* Exact powers of ten. */
#define MOST_EXACT 22
static const double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* True if the quotient of two doubles is rounded once, to a double. */
#define EXACT_QUOTIENT (FLT_EVAL_METHOD == 0)

/* A power of ten: its leading 128 bits, rounded up. A table in the source would be too long to
   read, so `_proto.pyx` computes the powers when they are first needed. */
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

static inline int leading_zeros(uint64_t number) {
#ifdef __GNUC__
    return __builtin_clzll(number);
#else
    int count = 0;
    while (!(number >> (63 - count)))
        count++;
    return count;
#endif
}

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
static inline uint64_t shortest_exactly(uint64_t fraction, int biased, int *exponent) {
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

/* Return the same from one product instead of three, unless a comparison is too close.

   Its upper part s and its fraction are the number in units of 10^k, where what is read back as the
   same number is at most `half` away; `half` is 0.5 to 5. All have 60 bits behind the point in the
   comparisons. The power is rounded up, by less than one of these bits in the product. */
static inline uint64_t shortest(uint64_t fraction, int biased, int *exponent) {
    if (fraction == 0 || biased == 0)
        return shortest_exactly(fraction, biased, exponent);
    int q = biased - 1075;
    int k = (q * 1262611) >> 22;
    int h = q + log2_of_ten(-k) + 1;
    power_t g = powers[-k - LEAST_POWER];
    uint64_t c = (fraction | UINT64_C(1) << 52) << h, low, ignored;
    uint64_t carry = multiply(g.low, c, &ignored);
    uint64_t s = multiply(g.high, c, &low);
    low += carry;
    s += low < carry;
    uint64_t tens = s / 10 * 10, half = g.high >> (5 - h);
    uint64_t below = (s - tens) << 60 | low >> 4, above = (UINT64_C(10) << 60) - below;
    int under = below < half, over = above < half;
    const uint64_t close = 8, middle = UINT64_C(1) << 63;
    if (below - half + close <= 2 * close || above - half + close <= 2 * close
        || low - middle + close <= 2 * close)
        return shortest_exactly(fraction, biased, exponent);
    uint64_t ten = tens + (over ? 10 : 0), one = s + (low > middle);
    *exponent = k;
    return under != over ? ten : one;  /* no branch: half of all numbers need the last digit */
}

static inline char *put_exponent(char *p, int exponent) {
    *p++ = 'e';
    *p++ = exponent < 0 ? '-' : '+';
    if (exponent < 0)
        exponent = -exponent;
    if (exponent >= 100) {
        *p++ = (char)('0' + exponent / 100);
        exponent %= 100;
    }
    put_pair(p, (uint32_t)exponent);
    return p + 2;
}

#ifdef HAS_WORDS
/* Write digits * 10^exponent like Python: plain, or with an exponent for long numbers. There are 15 to
   17 digits; they stay in registers, because a load would wait for the stores of its parts. */
static inline char *put_decimal(char *p, uint64_t digits, int exponent) {
    const uint64_t least = UINT64_C(10000000000000000);
    int shorter = digits < least;  /* as often as not */
    digits = shorter ? digits * 10 : digits;
    exponent -= shorter;
    while (digits < least) {
        digits *= 10;
        exponent--;
    }
    uint64_t upper = digits / 100000000, first = upper / 100000000;
    uint64_t a = eight_digits((uint32_t)(upper % 100000000));
    uint64_t b = eight_digits((uint32_t)(digits % 100000000));
    int count = b ? 17 - __builtin_clzll(b) / 8 : a ? 9 - __builtin_clzll(a) / 8 : 1;
    int point = 17 + exponent;
    a |= EACH('0');
    b |= EACH('0');
    first += '0';
    if (point <= 0 && point > -4) {
        memcpy(p, "0.000", 5);
        p += 2 - point;
        *p = (char)first;
        memcpy(p + 1, &a, 8);
        memcpy(p + 9, &b, 8);
        return p + count;
    }
    if (point == 1 || point > 16 || point < 1) {
        p[0] = (char)first;
        p[1] = '.';
        memcpy(p + 2, &a, 8);
        memcpy(p + 10, &b, 8);
        if (point == 1)
            return p + (count > 1 ? count + 1 : 3);
        return put_exponent(p + (count > 1 ? count + 1 : 1), point - 1);
    }
    uint64_t words[3] = {first | a << 8, a >> 56 | b << 8, b >> 56};
    memcpy(p, words, 8);
    if (point < 8) {
        uint64_t before = (UINT64_C(1) << 8 * point) - 1;
        uint64_t with_point = (words[0] & before) | UINT64_C(0x2E) << 8 * point
                              | (words[0] & ~before) << 8;
        uint64_t next = words[1] << 8 | words[0] >> 56;
        uint64_t last = words[2] << 8 | words[1] >> 56;
        memcpy(p, &with_point, 8);
        memcpy(p + 8, &next, 8);
        memcpy(p + 16, &last, 2);
    } else if (point < 16) {
        uint64_t before = (UINT64_C(1) << 8 * (point - 8)) - 1;
        uint64_t with_point = (words[1] & before) | UINT64_C(0x2E) << 8 * (point - 8)
                              | (words[1] & ~before) << 8;
        uint64_t last = words[2] << 8 | words[1] >> 56;
        memcpy(p + 8, &with_point, 8);
        memcpy(p + 16, &last, 2);
    } else {
        memcpy(p + 8, &words[1], 8);
        p[16] = '.';
        p[17] = (char)words[2];
    }
    return p + (count > point ? count : point + 1) + 1;
}
#else
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
        return put_exponent(count > 1 ? end : p + 1, point - 1);
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

#endif

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
        if ((double)digits == thousandfold && digits && (double)digits / 1000 == size) {
            uint32_t decimals = (uint32_t)(digits % 1000);
            p = put_integer(p, digits / 1000);
            p[0] = '.';
            p[1] = (char)('0' + decimals / 100);
            put_pair(p + 2, decimals % 100);
            return p + 4 - (decimals % 10 == 0) - (decimals % 100 == 0);
        }
    }
    fraction = bits & ((UINT64_C(1) << 52) - 1);
    uint64_t digits = shortest(fraction, (int)(bits >> 52 & 0x7FF), &exponent);
    return put_decimal(p, digits, exponent);
}

/* Set *number to digits * 10^exponent, rounded once; return 0 if 128 bits of the product do not suffice
   for that, or a normal double cannot hold it. `powers` must be filled. */
static inline int read_decimal(uint64_t digits, int exponent, double *number) {
    if (digits <= UINT64_C(1) << 53 && EXACT_QUOTIENT && exponent <= 0 && exponent >= -MOST_EXACT) {
        *number = (double)(int64_t)digits / POWERS[-exponent];
        return 1;
    }
    if (digits == 0 || exponent < LEAST_POWER || exponent > MOST_POWER)
        return 0;
    int shift = leading_zeros(digits);
    power_t g = powers[exponent - LEAST_POWER];
    uint64_t low, ignored;
    uint64_t carry = multiply(g.low, digits << shift, &ignored);
    uint64_t high = multiply(g.high, digits << shift, &low);
    low += carry;
    high += low < carry;
    /* The power is rounded up: less than 1 is to be subtracted from `low`, which matters only if all
       bits behind the half of the last digit are zero. */
    int top = (int)(high >> 63);
    uint64_t mantissa = high >> (9 + top);
    if ((mantissa & 1) && low == 0 && high << (55 - top) == 0)
        return 0;
    mantissa = (mantissa + (mantissa & 1)) >> 1;
    int biased = 1023 + 63 + top + log2_of_ten(exponent) - shift;
    if (mantissa >> 53) {
        mantissa >>= 1;
        biased++;
    }
    if (biased <= 0 || biased >= 2047)
        return 0;
    uint64_t bits = (mantissa & ((UINT64_C(1) << 52) - 1)) | (uint64_t)biased << 52;
    memcpy(number, &bits, 8);
    return 1;
}

#endif
