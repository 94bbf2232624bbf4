// core/status.h: how C below bind/ reports failure.
// Every function that can fail returns hd_status; the words are in one thread-local message.
// Message form: "where: what is wrong: got ..., expected ....\n  hint: ..." (lower case, real values).
#ifndef HD_STATUS_H
#define HD_STATUS_H

typedef enum {
    HD_OK = 0,
    HD_ESHAPE,   // extents do not fit together
    HD_EARG,     // an option or value is out of range, or of the wrong type
    HD_ENOMEM,   // native memory ran out
    HD_EIO,      // the operating system refused: file, pipe, device
    HD_EFORMAT,  // a file's content breaks its format or our limits
    HD_EBACKEND, // the back end cannot do this
    HD_ENOUGH,   // no failure: a second run (autograd/segment.h) may stop here
} hd_status;

// Set this thread's message (printf form, cut at 2 KiB) and give `code` back, so that `return hd_fail(...)` reads well.
hd_status hd_fail(hd_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The message and the code of the last hd_fail on this thread; never NULL, HD_OK before the first.
const char *hd_message(void);
hd_status hd_message_code(void);

// Leave the calling function with the status of `expr` unless it is HD_OK. Only where nothing needs releasing.
#define HD_CHECK(expr)                                                                                                 \
    do {                                                                                                               \
        hd_status status_ = (expr);                                                                                    \
        if (status_ != HD_OK)                                                                                          \
            return status_;                                                                                            \
    } while (0)

#endif
