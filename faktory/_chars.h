/* Characters and integers of JSON: the leaf functions of `_proto.pyx`; `_text.h` and `_floats.h` stand
   on this file.

   Plain C without Python objects. What depends on the processor or the compiler is chosen in this
   file, each time with a portable alternative. A function that reads gets the end of its input; a
   function that writes relies on its caller for enough room. */

#ifndef FAKTORY_CHARS_H
#define FAKTORY_CHARS_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* -DFAKTORY_PORTABLE selects the portable alternatives. */
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && !defined(FAKTORY_PORTABLE)
#define HAS_WORDS  /* eight characters in a register, the first one in the lowest byte */
#if defined(__SSE2__)
#include <emmintrin.h>
#define HAS_BLOCKS
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define HAS_BLOCKS
#endif
#endif

/* A stop is a byte that cannot be copied in JSON text: a control, the quote, the backslash. */
static inline int is_stop(unsigned char c) {
    return c < 0x20 || c == '"' || c == '\\';
}

/* Set the high bit of every stop among eight bytes; bits above the lowest stop can be wrong. */
#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

static inline uint64_t stops(uint64_t w) {
    uint64_t quote = w ^ EACH('"'), slash = w ^ EACH('\\');
    return EACH(0x80) & ((~w & (w - EACH(0x20))) | (~quote & (quote - EACH(1)))
                         | (~slash & (slash - EACH(1))));
}

/* Return how many of the STEP bytes at s precede a stop; set *wide if one of them is not ASCII. */
#ifdef HAS_BLOCKS
#define STEP 16

/* A mask has LANE bits for each byte of a block, the first byte's are the lowest. */
#ifdef __SSE2__
#define LANE 1
typedef __m128i block_t;
typedef uint32_t mask_t;

static inline block_t load_block(const char *s) {
    return _mm_loadu_si128((const __m128i *)s);
}

static inline mask_t mask_of(block_t found) {
    return (mask_t)_mm_movemask_epi8(found);
}

static inline block_t either(block_t a, block_t b) {
    return _mm_or_si128(a, b);
}

static inline block_t stop_bytes(block_t v) {
    return either(_mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1F)), v),
                  either(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')),
                         _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'))));
}

static inline mask_t wide_mask(block_t v) {
    return mask_of(v);
}
#else
#define LANE 4
typedef uint8x16_t block_t;
typedef uint64_t mask_t;

static inline block_t load_block(const char *s) {
    return vld1q_u8((const uint8_t *)s);
}

static inline mask_t mask_of(block_t found) {
    return vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(found), 4)), 0);
}

static inline block_t either(block_t a, block_t b) {
    return vorrq_u8(a, b);
}

static inline block_t stop_bytes(block_t v) {
    return either(vcltq_u8(v, vdupq_n_u8(0x20)),
                  either(vceqq_u8(v, vdupq_n_u8('"')), vceqq_u8(v, vdupq_n_u8('\\'))));
}

static inline mask_t wide_mask(block_t v) {
    return mask_of(vcgeq_u8(v, vdupq_n_u8(0x80)));
}
#endif

/* Return how many bytes precede the first one of a mask, which is not empty. */
static inline int first_of(mask_t mask) {
    return __builtin_ctzll(mask) / LANE;
}

static inline int count_clean(const char *s, int *wide) {
    block_t v = load_block(s);
    mask_t stop = mask_of(stop_bytes(v));
    *wide |= (wide_mask(v) & ((stop & -stop) - 1)) != 0;
    return stop ? first_of(stop) : STEP;
}
#else
#define STEP 8

static inline int count_clean(const char *s, int *wide) {
    uint64_t w;
    int n = 0;
    memcpy(&w, s, STEP);
    if (!stops(w)) {
        *wide |= (w & EACH(0x80)) != 0;
        return STEP;
    }
    while (!is_stop((unsigned char)s[n]))
        *wide |= s[n++] & 0x80;
    return n;
}
#endif

/* Return the next stop or the end. */
static inline const char *find_stop(const char *p, const char *end, int *wide) {
    while (end - p >= STEP) {
        int n = count_clean(p, wide);
        p += n;
        if (n < STEP)
            return p;
    }
    for (; p < end && !is_stop((unsigned char)*p); p++)
        *wide |= *p & 0x80;
    return p;
}

static inline const char *skip_space(const char *p, const char *end) {
    while (p < end && (unsigned char)*p <= ' '
           && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    return p;
}

/* Pack n characters, at most 16, into two words; with n, they identify the text. */
static inline void both_ends(const char *s, ptrdiff_t n, uint64_t *head, uint64_t *tail) {
    uint32_t a, b;
    if (n >= 8) {
        memcpy(head, s, 8);
        memcpy(tail, s + n - 8, 8);
    } else if (n >= 4) {
        memcpy(&a, s, 4);
        memcpy(&b, s + n - 4, 4);
        *head = *tail = a | (uint64_t)b << 32;
    } else {
        const unsigned char *u = (const unsigned char *)s;
        *head = n ? EACH(0x80) << 24 | (uint64_t)u[0] << 16 | (uint64_t)u[n / 2] << 8 | u[n - 1]
                  : EACH(0x80);
        *tail = *head;
    }
}

/* Copy n bytes to where no more than n can be written. */
static inline void copy_exactly(char *p, const char *s, ptrdiff_t n) {
    ptrdiff_t done = 0;
    if (n > 256) {
        memcpy(p, s, (size_t)n);
    } else if (n >= 16) {
        for (; n - done > 16; done += 16)
            memcpy(p + done, s + done, 16);
        memcpy(p + n - 16, s + n - 16, 16);
    } else if (n >= 8) {
        memcpy(p, s, 8);
        memcpy(p + n - 8, s + n - 8, 8);
    } else if (n >= 4) {
        memcpy(p, s, 4);
        memcpy(p + n - 4, s + n - 4, 4);
    } else if (n) {
        p[0] = s[0];
        p[n / 2] = s[n / 2];
        p[n - 1] = s[n - 1];
    }
}

/* Copy up to n characters before the first stop; return how many. p needs room for n + STEP bytes.
   The STEP bytes before s are readable: they are the header of the object that contains s. */
static inline ptrdiff_t put_clean(char *p, const char *s, ptrdiff_t n) {
    ptrdiff_t done = 0;
    int wide = 0;
#ifdef HAS_BLOCKS
    for (; n - done >= 4 * STEP; done += 4 * STEP) {
        const char *from = s + done;
        memcpy(p + done, from, 4 * STEP);
        if (mask_of(either(either(stop_bytes(load_block(from)), stop_bytes(load_block(from + STEP))),
                           either(stop_bytes(load_block(from + 2 * STEP)),
                                  stop_bytes(load_block(from + 3 * STEP))))))
            break;
    }
#endif
    for (; n - done >= STEP; done += STEP) {
        memcpy(p + done, s + done, STEP);
        int clean = count_clean(s + done, &wide);
        if (clean < STEP)
            return done + clean;
    }
    p += done;
    s += done;
    n -= done;
#ifdef HAS_BLOCKS
    /* Lengths are hard to predict: no branch depends on this one. The first word is rubbish if n < 8,
       and overwritten by the second, the last n % 8 characters. */
    ptrdiff_t whole = n & 8;
    uint64_t word;
    memcpy(p, s + whole - 8, 8);
    memcpy(&word, s + n - 8, 8);
    word = word >> 8 >> (56 - 8 * (n & 7));
    memcpy(p + whole, &word, 8);
    mask_t stop = mask_of(stop_bytes(load_block(s + n - STEP))) >> LANE * (STEP - 1 - n) >> LANE;
    return done + (stop ? first_of(stop) : n);
#else
    ptrdiff_t i = 0;
    for (; i < n && !is_stop((unsigned char)s[i]); i++)
        p[i] = s[i];
    return done + i;
#endif
}

#ifdef HAS_WORDS
/* Set the high bit of each character that is not a digit; a word has the characters xor '0'. It is exact
   up to the first character beyond ASCII. */
static inline uint64_t not_digits(uint64_t word) {
    return ((word + EACH(0x76)) | word) & EACH(0x80);
}

/* Return the number of the first `count` digits, 1 to 8, of a word. */
static inline uint64_t number_of(uint64_t word, int count) {
    word <<= 64 - 8 * count;
    word = word * 10 + (word >> 8);
    return ((word & UINT64_C(0xFF000000FF)) * UINT64_C(0xF424000000064)
            + (word >> 16 & UINT64_C(0xFF000000FF)) * UINT64_C(0x271000000001)) >> 32;
}
#endif

/* Append digits to *number, which overflows beyond 19 digits. */
static inline const char *read_digits(const char *p, const char *end, uint64_t *number) {
#ifdef HAS_WORDS
    static const uint32_t powers[] = {1,      10,      100,      1000,     10000,
                                      100000, 1000000, 10000000, 100000000};
    while (end - p >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        word ^= EACH('0');
        uint64_t other = not_digits(word);
        int count = other ? __builtin_ctzll(other) / 8 : 8;
        if (count == 0)
            return p;
        *number = *number * powers[count] + number_of(word, count);
        p += count;
        if (count < 8)
            return p;
    }
#endif
    for (; p < end && *p >= '0' && *p <= '9'; p++)
        *number = *number * 10 + (uint64_t)(*p - '0');
    return p;
}

/* Read digits, perhaps with a point among them, that are less than eight characters. Return how many
   characters these are and set the number without its point, and how many digits there are before and
   behind the point; return 0 for what is longer or not regular. */
static inline int read_short(const char *p, const char *end, uint64_t *number, int *before, int *behind) {
#ifdef HAS_WORDS
    uint64_t word;
    if (end - p < 8)
        return 0;
    memcpy(&word, p, 8);
    word ^= EACH('0');
    uint64_t other = not_digits(word);
    int size = other ? __builtin_ctzll(other) / 8 : 0;
    if (size == 0)
        return 0;
    *before = size;
    *behind = 0;
    if ((uint8_t)(word >> 8 * size) != ('.' ^ '0')) {
        *number = number_of(word, size);
        return size;
    }
    other &= other - 1;
    int all = other ? __builtin_ctzll(other) / 8 - 1 : 0;
    if (all <= size)
        return 0;
    uint64_t kept = (UINT64_C(1) << 8 * size) - 1;
    *behind = all - size;
    *number = number_of((word & kept) | (word >> 8 & ~kept), all);
    return all + 1;
#else
    (void)p, (void)end, (void)number, (void)before, (void)behind;
    return 0;
#endif
}

static const char PAIRS[] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
    "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
    "8081828384858687888990919293949596979899";

static inline void put_pair(char *p, uint32_t number) {
    memcpy(p, PAIRS + number * 2, 2);
}

#ifdef HAS_WORDS
/* Return the eight digits of a number below 10^8 as characters less '0', the first in the lowest byte. */
static inline uint64_t eight_digits(uint32_t number) {
    uint64_t fours = number / 10000 | (uint64_t)(number % 10000) << 32;
    uint64_t high = (fours * 10486 >> 20) & UINT64_C(0x7F0000007F);
    uint64_t pairs = high | (fours - 100 * high) << 16;
    uint64_t tens = (pairs * 103 >> 10) & UINT64_C(0xF000F000F000F);
    return tens | (pairs - 10 * tens) << 8;
}

/* Write eight digits of a number below 10^8. */
static inline void put_eight(char *p, uint32_t number) {
    uint64_t digits = eight_digits(number) | EACH('0');
    memcpy(p, &digits, 8);
}

/* Write a number without leading zeros: below 10^4, below 10^8, with room for 8 bytes. Numbers differ
   in length, which is hard to predict: no branch depends on it. */
static inline char *put_up_to_four(char *p, uint32_t number) {
    uint32_t high = number * 5243 >> 19;
    uint16_t first, last;
    memcpy(&first, PAIRS + 2 * high, 2);
    memcpy(&last, PAIRS + 2 * (number - 100 * high), 2);
    uint32_t digits = first | (uint32_t)last << 16;
    int zeros = __builtin_ctz((digits & 0xF0F0F0F) | 1u << 24) / 8;
    digits >>= 8 * zeros;
    memcpy(p, &digits, 4);
    return p + 4 - zeros;
}

static inline char *put_up_to_eight(char *p, uint32_t number) {
    if (number < 10000)
        return put_up_to_four(p, number);
    uint64_t digits = eight_digits(number);
    int zeros = __builtin_ctzll(digits) / 8;
    digits = (digits | EACH('0')) >> 8 * zeros;
    memcpy(p, &digits, 8);
    return p + 8 - zeros;
}
#else
/* Write four digits of a number below 10^4, eight of a number below 10^8. */
static inline void put_four(char *p, uint32_t number) {
    put_pair(p, number / 100);
    put_pair(p + 2, number % 100);
}

static inline void put_eight(char *p, uint32_t number) {
    put_four(p, number / 10000);
    put_four(p + 4, number % 10000);
}

/* Write a number without leading zeros: below 10^4, below 10^8. */
static inline char *put_up_to_four(char *p, uint32_t number) {
    uint32_t high = number / 100;
    if (high >= 10) {
        put_four(p, number);
        return p + 4;
    }
    if (high) {
        *p = (char)('0' + high);
        put_pair(p + 1, number % 100);
        return p + 3;
    }
    if (number >= 10) {
        put_pair(p, number);
        return p + 2;
    }
    *p = (char)('0' + number);
    return p + 1;
}

static inline char *put_up_to_eight(char *p, uint32_t number) {
    if (number < 10000)
        return put_up_to_four(p, number);
    p = put_up_to_four(p, number / 10000);
    put_four(p, number % 10000);
    return p + 4;
}

#endif

/* Write an integer within +-10^18. */
static inline char *put_integer(char *p, int64_t number) {
    uint64_t left = (uint64_t)(number < 0 ? -number : number);
    *p = '-';
    p += number < 0;
    if (left < 100000000)
        return put_up_to_eight(p, (uint32_t)left);
    uint64_t high = left / 100000000;
    uint32_t low = (uint32_t)(left % 100000000);
    if (high < 100000000)
        p = put_up_to_eight(p, (uint32_t)high);
    else {
        p = put_up_to_four(p, (uint32_t)(high / 100000000));
        put_eight(p, (uint32_t)(high % 100000000));
        p += 8;
    }
    put_eight(p, low);
    return p + 8;
}

static inline char *put_hex(char *p, const unsigned char *bytes, int count) {
    for (int i = 0; i < count; i++) {
        *p++ = "0123456789abcdef"[bytes[i] >> 4];
        *p++ = "0123456789abcdef"[bytes[i] & 15];
    }
    return p;
}

#endif
