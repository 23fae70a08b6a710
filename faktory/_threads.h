/* What the core needs without a GIL: state for each thread, and containers that no other thread
   changes while they are written. With a GIL, all of this is nothing.

   Rules: state that threads share does not change after import. A borrowed reference is used only
   while its owner cannot change: a tuple, or a list or dict that is held. */

#ifndef FAKTORY_THREADS_H
#define FAKTORY_THREADS_H

#include <Python.h>

#define MOST_HELD 512  /* `_MAX_DEPTH` of `_proto.pyx` */
#define JIDS 256  /* number of job ids from one read of the system's random source */

#ifdef Py_GIL_DISABLED
#define NO_GIL 1
#ifdef _MSC_VER
#define PER_THREAD __declspec(thread)
#else
#define PER_THREAD _Thread_local
#endif

/* The open containers of one value, the innermost last. */
typedef struct {
    int count;
    struct {
        PyObject *container;
        PyCriticalSection section;
    } open[MOST_HELD];
} held_t;

/* Own a reference to a container, and let no other thread change it. While a thread waits for one
   container, those around it are not locked: what was read of them before can be wrong then. */
static inline void hold(held_t *held, PyObject *container) {
    Py_INCREF(container);
    held->open[held->count].container = container;
    if (!PyTuple_CheckExact(container))
        PyCriticalSection_Begin(&held->open[held->count].section, container);
    held->count++;
}

static inline void let_go(held_t *held) {
    PyObject *container = held->open[--held->count].container;
    if (!PyTuple_CheckExact(container))
        PyCriticalSection_End(&held->open[held->count].section);
    Py_DECREF(container);
}

#else
#define NO_GIL 0
#define PER_THREAD

typedef struct {
    int count;
} held_t;

#define hold(held, container) ((void)(held))
#define let_go(held) ((held)->count--)
#endif

/* Random bytes for the next job ids of this thread, used from the end. */
static PER_THREAD unsigned char random_bytes[12 * JIDS];
static PER_THREAD int jids_left;

#endif
