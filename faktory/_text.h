/* Text of JSON that is more than a copy: escapes, and characters beyond ASCII.

   Plain C without Python objects. A function that writes relies on its caller for enough room. */

#ifndef FAKTORY_TEXT_H
#define FAKTORY_TEXT_H

#include "_chars.h"

/* Return the code of the \u escape at p, or -1 if there is none. */
static inline int read_hex(const char *p, const char *end) {
    static const char digits[] =  /* from '0' to 'f' */
        "\0\1\2\3\4\5\6\7\10\11\20\20\20\20\20\20\20\12\13\14\15\16\17"
        "\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20\20"
        "\12\13\14\15\16\17";
    int code = 0, wrong = 0;
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++) {
        unsigned c = (unsigned char)p[i] - (unsigned)'0';
        int digit = c <= 'f' - '0' ? digits[c] : 16;
        wrong |= digit;
        code = code << 4 | digit;
    }
    return wrong & 16 ? -1 : code;
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

/* Copy text, up to the quote at `end`, and replace its escapes by UTF-8, which is never longer. `to`
   needs room for STEP bytes more; `limit` is where the input ends. Return the end of the output, or
   NULL at an invalid escape. The bits of all codes go to *codes. A lone surrogate is written, too,
   and sets *lone. */
static inline char *unescape(char *to, const char *p, const char *end, const char *limit, int *codes,
                             int *lone) {
    static const char known[128] = {['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
                                    ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t'};
    int wide = 0;
    while (p < end) {
        if (*p != '\\') {
            if (limit - p < STEP) {
                *to++ = *p++;
                continue;
            }
            memcpy(to, p, STEP);
            int clean = count_clean(p, &wide);
            to += clean;
            p += clean;
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
            *codes |= code;
            to = put_utf8(to, code);
        } else {
            unsigned char letter = (unsigned char)p[1];
            if (end - p < 2 || letter > 127 || !known[letter])
                return NULL;
            *to++ = known[letter];
            p += 2;
        }
    }
    return to;
}

static inline char *put_escape(char *p, unsigned char c) {
    static const char known[128] = {['"'] = '"',  ['\\'] = '\\', ['\b'] = 'b', ['\f'] = 'f',
                                    ['\n'] = 'n', ['\r'] = 'r',  ['\t'] = 't'};
    p[0] = '\\';
    if (known[c]) {
        p[1] = known[c];
        return p + 2;
    }
    memcpy(p + 1, c < 0x10 ? "u000" : "u001", 4);
    p[5] = "0123456789abcdef"[c & 15];
    return p + 6;
}

/* Return the size of the character at s in UTF-8 and set its code; 0 if it is invalid. */
static inline int read_utf8(const unsigned char *s, const unsigned char *end, uint32_t *code) {
    uint32_t c = s[0];
    ptrdiff_t size = end - s;
    if (c < 0x80) {
        *code = c;
        return 1;
    }
    if (c < 0xE0) {
        if (c < 0xC2 || size < 2 || (s[1] & 0xC0) != 0x80)
            return 0;
        *code = (c & 0x1F) << 6 | (s[1] & 0x3Fu);
        return 2;
    }
    if (size < 3 || (s[1] & 0xC0) != 0x80 || (s[2] & 0xC0) != 0x80)
        return 0;
    if (c < 0xF0) {
        *code = (c & 0xF) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
        return *code < 0x800 || (*code & 0xF800) == 0xD800 ? 0 : 3;
    }
    if (c > 0xF4 || size < 4 || (s[3] & 0xC0) != 0x80)
        return 0;
    *code = (c & 7) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
    return *code < 0x10000 || *code > 0x10FFFF ? 0 : 4;
}

/* Return how many of the next eight bytes are ASCII before the first that is not. */
static inline int count_ascii(const unsigned char *s, const unsigned char *end) {
#ifdef HAS_WORDS
    uint64_t w;
    if (end - s >= 8) {
        memcpy(&w, s, 8);
        w &= EACH(0x80);
        return w ? __builtin_ctzll(w) / 8 : 8;
    }
#endif
    return s < end && *s < 0x80;
}

/* Count the characters of UTF-8; return the bits of all codes, or -1 if it is invalid. */
static inline int32_t count_utf8(const char *p, const char *last, ptrdiff_t *count) {
    const unsigned char *s = (const unsigned char *)p, *end = (const unsigned char *)last;
    uint32_t bits = 0, code = 0;
    ptrdiff_t characters = 0;
    while (s < end) {
        int size = count_ascii(s, end);
        characters += size;
        s += size;
        while (s < end && *s >= 0x80) {
            size = read_utf8(s, end, &code);
            if (size == 0)
                return -1;
            bits |= code;
            s += size;
            characters++;
        }
    }
    *count = characters;
    return (int32_t)bits;
}

static inline void put_unit(void *to, ptrdiff_t index, uint32_t code, int width) {
    if (width == 1)
        ((uint8_t *)to)[index] = (uint8_t)code;
    else if (width == 2)
        ((uint16_t *)to)[index] = (uint16_t)code;
    else
        ((uint32_t *)to)[index] = code;
}

static inline uint32_t get_unit(const void *from, ptrdiff_t index, int width) {
    return width == 1   ? ((const uint8_t *)from)[index]
           : width == 2 ? ((const uint16_t *)from)[index]
                        : ((const uint32_t *)from)[index];
}

static inline void decode_units(void *to, const unsigned char *s, const unsigned char *end, int width) {
    uint32_t code = 0;
    ptrdiff_t index = 0;
    while (s < end) {
        int size = count_ascii(s, end);
        for (int i = 0; i < size; i++)
            put_unit(to, index + i, s[i], width);
        index += size;
        s += size;
        while (s < end && *s >= 0x80) {
            s += read_utf8(s, end, &code);
            put_unit(to, index++, code, width);
        }
    }
}

/* Decode UTF-8 that `count_utf8` has found valid into characters of 1, 2 or 4 bytes. */
static inline void decode_utf8(void *to, const char *p, const char *last, int width) {
    const unsigned char *s = (const unsigned char *)p, *end = (const unsigned char *)last;
    if (width == 1)
        decode_units(to, s, end, 1);
    else if (width == 2)
        decode_units(to, s, end, 2);
    else
        decode_units(to, s, end, 4);
}

static inline char *put_units(char *p, const void *from, ptrdiff_t count, int width) {
    for (ptrdiff_t i = 0; i < count; i++) {
#ifdef HAS_WORDS
        if (width == 1 && count - i >= 8) {
            uint64_t w;
            memcpy(&w, (const char *)from + i, 8);
            memcpy(p, &w, 8);
            w = stops(w) | (w & EACH(0x80));
            int clean = w ? __builtin_ctzll(w) / 8 : 8;
            p += clean;
            i += clean;
            if (clean == 8) {
                i--;
                continue;
            }
        }
#endif
        uint32_t c = get_unit(from, i, width);
        if (c < 0x80) {
            if (is_stop((unsigned char)c))
                p = put_escape(p, (unsigned char)c);
            else
                *p++ = (char)c;
        } else if (width > 1 && (c & 0xFFFFF800) == 0xD800)
            return NULL;
        else
            p = put_utf8(p, (int)c);
    }
    return p;
}

/* Write characters of 1, 2 or 4 bytes as UTF-8 with escapes, at most 6 bytes each, with room for 8
   bytes more; return NULL at a lone surrogate. */
static inline char *put_wide(char *p, const void *from, ptrdiff_t count, int width) {
    return width == 1   ? put_units(p, from, count, 1)
           : width == 2 ? put_units(p, from, count, 2)
                        : put_units(p, from, count, 4);
}

#endif
