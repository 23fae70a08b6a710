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

/* Copy text up to its closing quote, and replace its escapes by UTF-8, which is never longer. Stop at
   the quote; where text is invalid or the input ends; or when *to has reached `full`, which has
   2 * STEP bytes of room behind it. *wide is set by characters beyond ASCII, *codes has the bits of
   escaped ones. A lone surrogate is written, too, and sets *lone. */
static inline const char *unescape(char **to, const char *full, const char *p, const char *end,
                                   int *wide, int *codes, int *lone) {
    static const char known[128] = {['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
                                    ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t'};
    char *q = *to;
    while (q < full) {
        if (end - p >= STEP) {
            memcpy(q, p, STEP);
            int clean = count_clean(p, wide);
            q += clean;
            p += clean;
            if (clean == STEP)
                continue;
        } else if (p < end && !is_stop((unsigned char)*p)) {
            *wide |= *p & 0x80;
            *q++ = *p++;
            continue;
        }
        if (end - p < 2 || *p != '\\')
            break;
        unsigned char letter = (unsigned char)p[1];
        if (letter < 128 && known[letter]) {
            *q++ = known[letter];
            p += 2;
            continue;
        }
        int code = read_hex(p, end);
        if (code < 0)
            break;
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
        q = put_utf8(q, code);
    }
    *to = q;
    return p;
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

/* Count the characters of UTF-8 by their first bytes, and find the largest byte, which shows how wide
   the characters are. */
static inline ptrdiff_t survey_utf8(const char *s, ptrdiff_t size, unsigned *largest) {
    ptrdiff_t count = 0;
    uint8_t most = 0;
    while (size) {
        ptrdiff_t some = size < 240 ? size : 240;
        uint8_t starts = 0;
        for (ptrdiff_t i = 0; i < some; i++) {
            uint8_t byte = (uint8_t)s[i];
            starts = (uint8_t)(starts + ((byte & 0xC0) != 0x80));
            most = byte > most ? byte : most;
        }
        count += starts;
        s += some;
        size -= some;
    }
    *largest = most;
    return count;
}

/* Return the size of the character at s, which is not ASCII, and set its code; 0 if it is invalid. */
static inline int read_utf8(const unsigned char *s, const unsigned char *end, uint32_t *code) {
    ptrdiff_t left = end - s;
    uint32_t c = s[0], second = left > 1 ? s[1] : 0, third = left > 2 ? s[2] : 0;
    if (c < 0xE0) {
        *code = (c & 0x1F) << 6 | (second & 0x3F);
        return c >= 0xC2 && (second & 0xC0) == 0x80 ? 2 : 0;
    }
    if ((second & 0xC0) != 0x80 || (third & 0xC0) != 0x80)
        return 0;
    if (c < 0xF0) {
        *code = (c & 0xF) << 12 | (second & 0x3F) << 6 | (third & 0x3F);
        return *code < 0x800 || (*code & 0xF800) == 0xD800 ? 0 : 3;
    }
    if (c > 0xF4 || left < 4 || (s[3] & 0xC0) != 0x80)
        return 0;
    *code = (c & 7) << 18 | (second & 0x3F) << 12 | (third & 0x3F) << 6 | (s[3] & 0x3Fu);
    return *code < 0x10000 || *code > 0x10FFFF ? 0 : 4;
}

static inline void put_unit(void *to, ptrdiff_t index, uint32_t code, int width) {
    if (width == 1)
        ((uint8_t *)to)[index] = (uint8_t)code;
    else if (width == 2)
        ((uint16_t *)to)[index] = (uint16_t)code;
    else
        ((uint32_t *)to)[index] = code;
}

static inline int decode_units(void *to, const unsigned char *s, const unsigned char *end, int width) {
    uint32_t code = 0;
    ptrdiff_t index = 0;
    while (s < end) {
        if (*s < 0x80) {
#ifdef HAS_WORDS
            uint64_t w;
            if (width != 2 && end - s >= 8) {
                memcpy(&w, s, 8);
                uint64_t other = w & EACH(0x80);
                int size = other ? __builtin_ctzll(other) / 8 : 8;
                for (int i = 0; i < size; i++, w >>= 8)
                    put_unit(to, index + i, w & 0xFF, width);
                index += size;
                s += size;
                continue;
            }
#endif
            put_unit(to, index++, *s++, width);
            continue;
        }
#ifdef HAS_WORDS
        if (end - s >= 4) {
            uint32_t w;
            memcpy(&w, s, 4);
            if (width > 1 && (w & 0xC0C0F0) == 0x8080E0) {
                code = (w & 0xF) << 12 | (w >> 2 & 0xFC0) | (w >> 16 & 0x3F);
                if (code < 0x800 || (code & 0xF800) == 0xD800)
                    return 0;
                put_unit(to, index++, code, width);
                s += 3;
                continue;
            }
            if ((w & 0xC0E0) == 0x80C0 && (w & 0x1E)) {
                put_unit(to, index++, (w & 0x1F) << 6 | (w >> 8 & 0x3F), width);
                s += 2;
                continue;
            }
        }
#endif
        int size = read_utf8(s, end, &code);
        if (size == 0)
            return 0;
        put_unit(to, index++, code, width);
        s += size;
    }
    return 1;
}

/* Decode UTF-8 into as many characters as `survey_utf8` has counted, of 1, 2 or 4 bytes as the largest
   byte demands; return 0 if it is invalid. */
static inline int decode_utf8(void *to, const char *p, const char *last, int width) {
    const unsigned char *s = (const unsigned char *)p, *end = (const unsigned char *)last;
    return width == 1   ? decode_units(to, s, end, 1)
           : width == 2 ? decode_units(to, s, end, 2)
                        : decode_units(to, s, end, 4);
}

static inline uint32_t get_unit(const void *from, ptrdiff_t index, int width) {
    return width == 1   ? ((const uint8_t *)from)[index]
           : width == 2 ? ((const uint16_t *)from)[index]
                        : ((const uint32_t *)from)[index];
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
