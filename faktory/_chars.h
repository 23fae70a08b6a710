/* Characters and numbers of JSON: the leaf functions of `_proto.pyx`.

   Plain C without Python objects. All code that depends on the processor or the compiler is in this
   file, each time with a portable alternative. A function that reads gets the end of its input; a
   function that writes relies on its caller for enough room. */

#ifndef FAKTORY_CHARS_H
#define FAKTORY_CHARS_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* -DFAKTORY_PORTABLE selects the portable alternatives. */
#if defined(__SSE2__) && defined(__GNUC__) && !defined(FAKTORY_PORTABLE)
#include <emmintrin.h>
#define HAS_SSE2
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
#ifdef HAS_SSE2
#define STEP 16

static inline unsigned stop_mask(__m128i v) {
    __m128i found = _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1F)), v),
                                 _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')),
                                              _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'))));
    return (unsigned)_mm_movemask_epi8(found);
}

/* Return whether the last n bytes before end contain a stop; n < STEP, and STEP are readable. */
static inline int stop_in_last(const char *end, int n) {
    return (stop_mask(_mm_loadu_si128((const __m128i *)(end - STEP))) >> (STEP - n)) != 0;
}

static inline int count_clean(const char *s, int *wide) {
    __m128i v = _mm_loadu_si128((const __m128i *)s);
    int n = __builtin_ctz(stop_mask(v) | 1u << STEP);
    *wide |= _mm_movemask_epi8(v) & ((1 << n) - 1);
    return n;
}
#else
#define STEP 8

static inline int stop_in_last(const char *end, int n) {
    for (; n; n--)
        if (is_stop((unsigned char)end[-n]))
            return 1;
    return 0;
}

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

/* Copy up to n characters before the first stop; return how many. p needs room for n + STEP bytes.
   The STEP bytes before s are readable: they are the header of the object that contains s. */
static inline ptrdiff_t put_clean(char *p, const char *s, ptrdiff_t n) {
    ptrdiff_t done = 0;
    int wide = 0;
    for (; n - done >= STEP; done += STEP) {
        memcpy(p + done, s + done, STEP);
        int clean = count_clean(s + done, &wide);
        if (clean < STEP)
            return done + clean;
    }
    p += done;
    s += done;
    n -= done;
    if (stop_in_last(s + n, (int)n)) {
        int i = 0;
        for (; !is_stop((unsigned char)s[i]); i++)
            p[i] = s[i];
        return done + i;
    }
    if (n >= 8) {
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
    return done + n;
}

/* Exact powers of ten, for integers below 2^53. */
#define MAX_DIGITS 15
static const double POWERS[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7,
                                1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};

/* True if the quotient of two doubles is rounded once, to a double. */
#define EXACT_QUOTIENT (FLT_EVAL_METHOD == 0)

/* Append digits to *number, which overflows beyond 19 digits. */
static inline const char *read_digits(const char *p, const char *end, uint64_t *number) {
    for (; p < end && *p >= '0' && *p <= '9'; p++)
        *number = *number * 10 + (uint64_t)(*p - '0');
    return p;
}

/* Return the code of the \u escape at p, or -1 if there is none. */
static inline int read_hex(const char *p, const char *end) {
    int code = 0;
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++) {
        int c = p[i] | 0x20;
        if (p[i] >= '0' && p[i] <= '9')
            code = code << 4 | (p[i] - '0');
        else if (c >= 'a' && c <= 'f')
            code = code << 4 | (c - 'a' + 10);
        else
            return -1;
    }
    return code;
}

static inline char *put_utf8(char *p, int code) {
    if (code < 0x80) {
        *p++ = (char)code;
        return p;
    }
    if (code < 0x800)
        *p++ = (char)(0xC0 | code >> 6);
    else {
        if (code < 0x10000)
            *p++ = (char)(0xE0 | code >> 12);
        else {
            *p++ = (char)(0xF0 | code >> 18);
            *p++ = (char)(0x80 | (code >> 12 & 0x3F));
        }
        *p++ = (char)(0x80 | (code >> 6 & 0x3F));
    }
    *p++ = (char)(0x80 | (code & 0x3F));
    return p;
}

/* Copy text and replace its escapes by UTF-8, which is never longer. Return the end of the output,
   or NULL at an invalid escape. A lone surrogate is written, too, and sets *lone. */
static inline char *unescape(char *to, const char *p, const char *end, int *lone) {
    while (p < end) {
        if (*p != '\\') {
            *to++ = *p++;
            continue;
        }
        int code = read_hex(p, end);
        if (code >= 0) {
            p += 6;
            if (code >= 0xD800 && code < 0xE000) {
                int low = code < 0xDC00 ? read_hex(p, end) : -1;
                if (low >= 0xDC00 && low < 0xE000) {
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                    p += 6;
                } else
                    *lone = 1;
            }
            to = put_utf8(to, code);
        } else {
            static const char known[] = "\"\"\\\\//b\bf\fn\nr\rt\t";  /* letter, character */
            const char *letter = (const char *)memchr(known, p[1], 16);
            if (end - p < 2 || letter == NULL || (unsigned char)p[1] < 0x20)
                return NULL;
            *to++ = letter[1];
            p += 2;
        }
    }
    return to;
}

static inline char *put_escape(char *p, unsigned char c) {
    static const char known[] = "\"\"\\\\\bb\ff\nn\rr\tt";  /* character, letter */
    const char *letter = (const char *)memchr(known, c, 14);
    *p++ = '\\';
    if (letter != NULL) {
        *p++ = letter[1];
        return p;
    }
    memcpy(p, c < 0x10 ? "u000" : "u001", 4);
    p[4] = "0123456789abcdef"[c & 15];
    return p + 5;
}

static const char PAIRS[] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
    "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
    "8081828384858687888990919293949596979899";

static inline void put_pair(char *p, uint32_t number) {
    memcpy(p, PAIRS + number * 2, 2);
}

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

/* Write an integer within +-10^18. */
static inline char *put_integer(char *p, int64_t number) {
    uint64_t left = (uint64_t)(number < 0 ? -number : number);
    if (number < 0)
        *p++ = '-';
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
