"""C declarations for `_proto.pyx`: our own headers and Python's C API.

Objects are bare pointers here, so that Cython does not count their references: `OWNED` passes an
owned reference to Cython; all other references are borrowed, except those to new objects.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #define ASCII_DATA(text) ((char *)((PyASCIIObject *)(text) + 1))
    #define OWNED(pointer) (pointer)
    #define TYPE(pointer) ((PyObject *)Py_TYPE(pointer))
    #if PY_VERSION_HEX >= 0x030C0000
    #define IS_COMPACT(number) PyUnstable_Long_IsCompact((PyLongObject *)(number))
    #define COMPACT_VALUE(number) PyUnstable_Long_CompactValue((PyLongObject *)(number))
    #else
    #define IS_COMPACT(number) ((size_t)(Py_SIZE(number) + 1) <= 2)
    #define COMPACT_VALUE(number) (Py_SIZE(number) * (Py_ssize_t)((PyLongObject *)(number))->ob_digit[0])
    #endif
    """
    char *ASCII_DATA(PyObject *)
    object OWNED(PyObject *)
    PyObject *TYPE(PyObject *)
    bint IS_COMPACT(PyObject *)
    Py_ssize_t COMPACT_VALUE(PyObject *)

cdef extern from "_chars.h":
    const int STEP
    void copy_exactly(char *, const char *, Py_ssize_t)
    Py_ssize_t put_clean(char *, const char *, Py_ssize_t)
    const char *find_stop(const char *, const char *, int *)
    const char *skip_space(const char *, const char *)
    void both_ends(const char *, Py_ssize_t, uint64_t *, uint64_t *)
    const char *read_digits(const char *, const char *, uint64_t *)
    int read_short(const char *, const char *, uint64_t *, int *, int *)
    char *put_integer(char *, int64_t)
    char *put_hex(char *, const unsigned char *, int)

cdef extern from "_text.h":
    const char *unescape(char **, const char *, const char *, const char *, int *, int *, bint *)
    char *put_escape(char *, unsigned char)
    Py_ssize_t survey_utf8(const char *, Py_ssize_t, unsigned *)
    bint decode_utf8(void *, const char *, const char *, int)
    char *put_wide(char *, const void *, Py_ssize_t, int)

cdef extern from "_floats.h":
    ctypedef struct power_t:
        uint64_t high, low
    const int LEAST_POWER, MOST_POWER
    const bint EXACT_QUOTIENT
    const double *POWERS
    power_t *powers
    char *put_double(char *, double)
    bint read_decimal(uint64_t, int, double *)

cdef extern from "_threads.h":
    ctypedef struct held_t:
        int count
    const bint NO_GIL
    const int JIDS
    unsigned char *random_bytes
    int jids_left
    void hold(held_t *, PyObject *)
    void let_go(held_t *)

cdef extern from "Python.h":
    PyObject *Py_True
    PyObject *Py_False
    const Py_ssize_t PY_SSIZE_T_MAX
    void Py_INCREF(PyObject *)
    void Py_DECREF(PyObject *)
    void Py_XDECREF(PyObject *)
    void Py_XINCREF(PyObject *)
    void PyErr_Clear()
    PyObject *PyErr_Occurred()
    bint PyErr_ExceptionMatches(object)
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *, Py_ssize_t) except NULL
    int _PyBytes_Resize(PyObject **, Py_ssize_t) except -1
    char *bytes_data "PyBytes_AS_STRING"(PyObject *)
    Py_ssize_t bytes_size "PyBytes_GET_SIZE"(PyObject *)
    PyObject *PyDict_New() noexcept
    Py_ssize_t PyDict_GET_SIZE(PyObject *)
    int PyDict_Next(PyObject *, Py_ssize_t *, PyObject **, PyObject **)
    int PyDict_SetItem(PyObject *, PyObject *, PyObject *) noexcept
    PyObject *PyFloat_FromDouble(double) noexcept
    double PyFloat_AS_DOUBLE(PyObject *)
    PyObject *PyList_New(Py_ssize_t) noexcept
    PyObject **PySequence_Fast_ITEMS(PyObject *)
    Py_ssize_t PySequence_Fast_GET_SIZE(PyObject *)
    PyObject *PyLong_FromLong(long) noexcept
    PyObject *PyLong_FromLongLong(long long) noexcept
    PyObject *PyLong_FromUnicodeObject(PyObject *, int) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject *, int *) noexcept
    const int PyBUF_READ
    object PyMemoryView_FromMemory(char *, Py_ssize_t, int)
    Py_buffer *PyMemoryView_GET_BUFFER(object)
    Py_hash_t PyObject_Hash(PyObject *) noexcept
    double PyOS_string_to_double(const char *, char **, PyObject *) noexcept
    PyObject *PyUnicode_DecodeUTF8(const char *, Py_ssize_t, const char *) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject *)
    int PyUnicode_KIND(PyObject *)
    void *PyUnicode_DATA(PyObject *)
    bint PyUnicode_IS_COMPACT_ASCII(PyObject *)
    PyObject *PyUnicode_New(Py_ssize_t, Py_UCS4) noexcept
