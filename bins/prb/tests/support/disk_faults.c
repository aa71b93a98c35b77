/*
 * A library for LD_PRELOAD that makes the disk of one folder fail.
 *
 * DISK_FAULT_FOLDER names the folder. While DISK_FAULT_FILE exists, its line selects calls on files below that
 * folder, and what they do:
 *
 *   CALLS FAULT
 *
 * CALLS are some of write, sync, truncate, rename, create and meta (LMDB's write of its meta page, which ends a
 * transaction), joined by commas. FAULT is an errno, which they fail with; "stays" and an errno: they fail, but the
 * first one does its work; "short": writes write half; "hang": they wait until the line changes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The system calls themselves: the functions of the same names are those below. */
static long call(long number, long a, long b, long c, long d, long e) {
    return syscall(number, a, b, c, d, e);
}

static int is_below(const char *path) {
    const char *folder = getenv("DISK_FAULT_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    return length && !strncmp(path, folder, length) && (path[length] == '/' || path[length] == 0);
}

static int is_file_below(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = call(SYS_readlinkat, AT_FDCWD, (long)link, (long)path, sizeof path - 1, 0);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* Reads the fault of a kind of call; returns whether there is one. */
static int fault_of(const char *kind, char *fault, size_t size) {
    char line[256];
    const char *file = getenv("DISK_FAULT_FILE");
    if (!file) return 0;
    long fd = call(SYS_openat, AT_FDCWD, (long)file, O_RDONLY | O_CLOEXEC, 0, 0);
    if (fd < 0) return 0;
    long length = call(SYS_read, fd, (long)line, sizeof line - 1, 0, 0);
    call(SYS_close, fd, 0, 0, 0, 0);
    if (length <= 0) return 0;
    line[length] = 0;
    line[strcspn(line, "\n")] = 0;
    char *space = strchr(line, ' ');
    if (!space) return 0;
    *space = 0;
    char *state = NULL;
    for (char *name = strtok_r(line, ",", &state); name; name = strtok_r(NULL, ",", &state)) {
        if (!strcmp(name, kind)) {
            snprintf(fault, size, "%s", space + 1);
            return 1;
        }
    }
    return 0;
}

enum { WORK, FAIL, WORK_AND_FAIL, HALF };

/* Whether a call with "stays" has done its work. */
static int has_stayed;

/* Decides about one call; sets `error` for those that fail. */
static int decide(const char *kind, int *error) {
    char fault[128];
    int old = errno;
    while (fault_of(kind, fault, sizeof fault) && !strcmp(fault, "hang")) usleep(20000);
    int is_faulty = fault_of(kind, fault, sizeof fault);
    errno = old;
    if (!is_faulty) {
        has_stayed = 0;
        return WORK;
    }
    if (!strcmp(fault, "short")) return HALF;
    int stays = !strncmp(fault, "stays ", 6);
    *error = atoi(fault + (stays ? 6 : 0));
    return stays && !__sync_fetch_and_or(&has_stayed, 1) ? WORK_AND_FAIL : FAIL;
}

static long done(int decision, int error, long result) {
    if (decision != WORK_AND_FAIL) return result;
    errno = error;
    return -1;
}

#define FAULTY(kind, is_affected)                           \
    int error = 0;                                          \
    int decision = (is_affected) ? decide(kind, &error) : WORK; \
    if (decision == FAIL) {                                 \
        errno = error;                                      \
        return -1;                                          \
    }

ssize_t write(int fd, const void *bytes, size_t count) {
    FAULTY("write", is_file_below(fd))
    if (decision == HALF) count = (count + 1) / 2;
    return done(decision, error, call(SYS_write, fd, (long)bytes, count, 0, 0));
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    /* LMDB writes everything else in whole pages. */
    FAULTY(count < 4096 ? "meta" : "write", is_file_below(fd))
    if (decision == HALF) count = (count + 1) / 2;
    return done(decision, error, call(SYS_pwrite64, fd, (long)bytes, count, offset, 0));
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite64(fd, bytes, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    FAULTY("write", is_file_below(fd))
    if (decision == HALF) {
        return call(SYS_pwrite64, fd, (long)parts[0].iov_base, (parts[0].iov_len + 1) / 2, offset, 0);
    }
    return done(decision, error, call(SYS_pwritev, fd, (long)parts, count, offset, 0));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return pwritev(fd, parts, count, offset);
}

/* LMDB's way to write some pages in a row. */
ssize_t writev(int fd, const struct iovec *parts, int count) {
    FAULTY("write", is_file_below(fd))
    if (decision == HALF) return call(SYS_write, fd, (long)parts[0].iov_base, (parts[0].iov_len + 1) / 2, 0, 0);
    return done(decision, error, call(SYS_writev, fd, (long)parts, count, 0, 0));
}

int fsync(int fd) {
    FAULTY("sync", is_file_below(fd))
    return done(decision, error, call(SYS_fsync, fd, 0, 0, 0, 0));
}

int fdatasync(int fd) {
    FAULTY("sync", is_file_below(fd))
    return done(decision, error, call(SYS_fdatasync, fd, 0, 0, 0, 0));
}

int ftruncate64(int fd, off64_t length) {
    FAULTY("truncate", is_file_below(fd))
    return done(decision, error, call(SYS_ftruncate, fd, length, 0, 0, 0));
}

int ftruncate(int fd, off_t length) {
    return ftruncate64(fd, length);
}

int rename(const char *from, const char *to) {
    FAULTY("rename", is_below(to))
    return done(decision, error, call(SYS_renameat2, AT_FDCWD, (long)from, AT_FDCWD, (long)to, 0));
}

int mkdir(const char *path, mode_t mode) {
    FAULTY("create", is_below(path))
    return done(decision, error, call(SYS_mkdirat, AT_FDCWD, (long)path, mode, 0, 0));
}

int openat64(int folder, const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    int is_created = flags & (O_CREAT | O_WRONLY | O_RDWR);
    FAULTY("create", is_created && is_below(path))
    return call(SYS_openat, folder, (long)path, flags, mode, 0);
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return openat64(AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return openat64(AT_FDCWD, path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return openat64(folder, path, flags, mode);
}
