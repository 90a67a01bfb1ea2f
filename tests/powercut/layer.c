/* The layer: every file operation of this process below one directory, in order, in a trace file.

   Theory of operation
   ===================
   Loaded with LD_PRELOAD, the functions below stand before those of the C library. While a recording is on
   (powercut_begin ... powercut_end, called by the process itself), an operation below the root is done and written to
   the trace under one lock, so the trace has the order in which the operations happened. An operation that fails leaves
   no record. A file is told by its inode, never by a table of descriptors, so dup, fork and passing descriptors need no
   care; whether it lies below the root is asked of /proc/self/fd, which knows renamed and deleted files too.

   Syncs are recorded and not done: the replayed trace is the disk, the real one is only the page cache. With FILES_LIE
   or FOLDERS_LIE those of files or of folders are not even recorded, which is a disk that says "done" and does nothing:
   the negative control.

   A shared writable mapping is written to without any call. So each has a shadow copy; before each record the mapping
   is compared with it, and what changed is recorded as a write at this point. (SQLite's -shm is left out: it is made
   anew by whoever opens the database first.)

   What goes past the C library, or by a call that cannot be recorded here, is an UNSEEN record, which the replay
   refuses. What goes past unseen even here (a system call of its own) makes the replayed tree differ from the real
   one, which the examination compares for every recording.

   A record: u8 kind, 3 bytes nothing, u32 lengths of two names and of the data, u64 inode, i64 a, i64 b, the bytes.  */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    CREATE = 1, WRITE, TRUNCATE, SYNC, DATASYNC, RANGESYNC, RENAME, UNLINK, RMDIR, MKDIR, LINK, SYMLINK, CHMOD, MARK,
    UNSEEN, SYNCALL
};
enum { FILES_LIE = 1, FOLDERS_LIE = 2 };

struct head {
    uint8_t kind, nothing[3];
    uint32_t one, two, data;
    uint64_t inode;
    int64_t a, b;
} __attribute__((packed));

static int recording, flags, trace_fd = -1;
static char root[PATH_MAX];
static size_t root_length;
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

#define NEXT(name) ({ static __typeof__(&name) next; if (!next) next = dlsym(RTLD_NEXT, #name); next; })
#define ON() (__atomic_load_n(&recording, __ATOMIC_ACQUIRE))
#define LOCKED(...) do { pthread_mutex_lock(&lock); __VA_ARGS__; pthread_mutex_unlock(&lock); } while (0)

/* The trace */

static void put(const void *bytes, size_t size) {
    const char *at = bytes;
    while (size) {
        ssize_t n = NEXT(write)(trace_fd, at, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) abort(); /* a trace with a hole would be a lie */
        at += n, size -= (size_t)n;
    }
}

static void put_record(enum kind kind, const char *one, const char *two, const void *data, size_t size, ino_t inode,
                       int64_t a, int64_t b) {
    int kept = errno;
    struct head head = {.kind = kind, .one = one ? strlen(one) : 0, .two = two ? strlen(two) : 0, .data = size,
                        .inode = inode, .a = a, .b = b};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)one, head.one}, {(void *)two, head.two},
                            {(void *)data, size}};
    size_t total = sizeof head + head.one + head.two + size;
    ssize_t n = NEXT(writev)(trace_fd, parts, 4);
    if (n < 0 || (size_t)n != total) {
        if (n != (ssize_t)sizeof head) n = n < 0 ? 0 : n;
        for (int i = 0; i < 4; i++) { /* a short write: the rest of it part by part */
            size_t done = (size_t)n < parts[i].iov_len ? (size_t)n : parts[i].iov_len;
            put((char *)parts[i].iov_base + done, parts[i].iov_len - done);
            n -= (ssize_t)done;
        }
    }
    errno = kept;
}

/* Mappings */

static struct mapping { char *at, *shadow; size_t length; off_t offset; ino_t inode; int fd; } mappings[64];

static void look_at_mappings(void) {
    for (struct mapping *m = mappings; m < mappings + 64; m++) {
        struct stat seen;
        if (!m->at || fstat(m->fd, &seen)) continue;
        size_t there = seen.st_size <= m->offset ? 0 : (size_t)(seen.st_size - m->offset);
        if (there < m->length) memset(m->shadow + there, 0, m->length - there); /* beyond the file's end is no memory */
        else there = m->length;
        for (size_t page = 0; page < there; page += 4096) {
            size_t size = there - page < 4096 ? there - page : 4096, first = 0, last = size;
            char *now = m->at + page, *then = m->shadow + page;
            if (!memcmp(now, then, size)) continue;
            while (now[first] == then[first]) first++;
            while (now[last - 1] == then[last - 1]) last--;
            memcpy(then + first, now + first, last - first);
            put_record(WRITE, 0, 0, then + first, last - first, m->inode, m->offset + (off_t)(page + first), 0);
        }
    }
}

static void record(enum kind kind, const char *one, const char *two, const void *data, size_t size, ino_t inode,
                   int64_t a, int64_t b) {
    look_at_mappings();
    put_record(kind, one, two, data, size, inode, a, b);
}

/* Where things are */

static const char *below(const char *path) {
    if (strncmp(path, root, root_length)) return 0;
    if (!path[root_length]) return "";
    return path[root_length] == '/' ? path + root_length + 1 : 0;
}

/* The name of an open file or folder within the root, 0 for others; `seen` is filled for those within. */
static const char *name_of(int fd, char *room, struct stat *seen) {
    int kept = errno;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, room, PATH_MAX - 1);
    const char *found = 0;
    if (length > 0) {
        room[length] = 0;
        found = below(room);
        if (found && (fstat(fd, seen) || !(S_ISREG(seen->st_mode) || S_ISDIR(seen->st_mode)))) found = 0;
    }
    errno = kept;
    return found;
}

/* The name within the root that (folder, path) would have, its folder resolved, its last part not. */
static const char *name_at(int folder, const char *path, char *room) {
    int kept = errno;
    char whole[PATH_MAX], link[64];
    const char *found = 0;
    size_t length = 0;
    if (path[0] != '/' && folder == AT_FDCWD) {
        if (!getcwd(whole, sizeof whole)) return 0;
        length = strlen(whole);
    } else if (path[0] != '/') {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, whole, sizeof whole - 1);
        if (n < 0) return 0;
        length = (size_t)n;
    }
    if (length + strlen(path) + 2 < sizeof whole) {
        if (length) whole[length++] = '/';
        strcpy(whole + length, path);
        for (size_t end = strlen(whole); end > 1 && whole[end - 1] == '/';) whole[--end] = 0;
        char *last = strrchr(whole, '/');
        if (last && last != whole) {
            *last = 0;
            if (realpath(whole, room) && strlen(room) + strlen(last + 1) + 2 < PATH_MAX) {
                strcat(strcat(room, "/"), last + 1);
                found = below(room);
            }
        }
    }
    errno = kept;
    return found;
}

static void unseen(const char *what) { LOCKED(record(UNSEEN, what, 0, 0, 0, 0, 0, 0)); }

static void unseen_if_below(const char *what, int fd) {
    char room[PATH_MAX];
    struct stat seen;
    if (ON() && fd >= 0 && name_of(fd, room, &seen)) unseen(what);
}

/* What the process itself calls */

int powercut_begin(const char *directory, const char *trace, int given) {
    if (!realpath(directory, root)) return -1;
    root_length = strlen(root);
    trace_fd = NEXT(open)(trace, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (trace_fd < 0) return -1;
    flags = given;
    __atomic_store_n(&recording, 1, __ATOMIC_RELEASE);
    return 0;
}

void powercut_mark(const char *text) {
    if (ON()) LOCKED(record(MARK, text, 0, 0, 0, 0, 0, 0));
}

void powercut_end(void) {
    pthread_mutex_lock(&lock);
    if (recording) look_at_mappings(), NEXT(close)(trace_fd);
    __atomic_store_n(&recording, 0, __ATOMIC_RELEASE);
    for (struct mapping *m = mappings; m < mappings + 64; m++)
        if (m->at) free(m->shadow), NEXT(close)(m->fd), m->at = 0;
    pthread_mutex_unlock(&lock);
}

static void in_child(void) { recording = 0; }
__attribute__((constructor)) static void start(void) { pthread_atfork(0, 0, in_child); }

/* Opening and making */

static int opened(int folder, const char *path, int how, mode_t mode) {
    if (!ON()) return NEXT(openat)(folder, path, how, mode);
    char room[PATH_MAX];
    struct stat before, seen;
    pthread_mutex_lock(&lock);
    int there = !fstatat(folder, path, &before, 0);
    int fd = NEXT(openat)(folder, path, how, mode);
    const char *name = fd < 0 ? 0 : name_of(fd, room, &seen);
    if (name && (how & O_ACCMODE) != O_RDONLY) {
        if ((how & O_TMPFILE) == O_TMPFILE || how & (O_SYNC | O_DSYNC)) unseen("O_TMPFILE or O_SYNC");
        if (!there) record(CREATE, name, 0, 0, 0, seen.st_ino, 0, seen.st_mode & 07777);
        else if (how & O_TRUNC && before.st_size) record(TRUNCATE, 0, 0, 0, 0, seen.st_ino, 0, 0);
    } else if (name && !there)
        record(CREATE, name, 0, 0, 0, seen.st_ino, 0, seen.st_mode & 07777);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE_OF(how) ({ mode_t mode = 0; if ((how) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, how); \
    mode = va_arg(rest, mode_t); va_end(rest); } mode; })

int open(const char *path, int how, ...) { return opened(AT_FDCWD, path, how, MODE_OF(how)); }
int open64(const char *path, int how, ...) { return opened(AT_FDCWD, path, how, MODE_OF(how)); }
int openat(int folder, const char *path, int how, ...) { return opened(folder, path, how, MODE_OF(how)); }
int openat64(int folder, const char *path, int how, ...) { return opened(folder, path, how, MODE_OF(how)); }
int __open_2(const char *path, int how) { return opened(AT_FDCWD, path, how, 0); }
int __open64_2(const char *path, int how) { return opened(AT_FDCWD, path, how, 0); }
int __openat_2(int folder, const char *path, int how) { return opened(folder, path, how, 0); }
int __openat64_2(int folder, const char *path, int how) { return opened(folder, path, how, 0); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }

#define TOLD(type, call, what, fd) ({ type found = call; unseen_if_below(what, fd); found; })
#define OF(file) ((file) ? fileno(file) : -1)
#define WRITES(mode) (strpbrk(mode, "wa+") != 0)
FILE *fopen(const char *path, const char *mode) {
    FILE *file = NEXT(fopen)(path, mode);
    if (WRITES(mode)) unseen_if_below("fopen", OF(file));
    return file;
}
FILE *fopen64(const char *path, const char *mode) { return fopen(path, mode); }
FILE *freopen(const char *path, const char *mode, FILE *old) {
    FILE *file = NEXT(freopen)(path, mode, old);
    if (WRITES(mode)) unseen_if_below("freopen", OF(file));
    return file;
}
FILE *freopen64(const char *path, const char *mode, FILE *old) { return freopen(path, mode, old); }
FILE *fdopen(int fd, const char *mode) {
    if (WRITES(mode)) unseen_if_below("fdopen", fd);
    return NEXT(fdopen)(fd, mode);
}
int mkstemp(char *name) { return TOLD(int, NEXT(mkstemp)(name), "mkstemp", found); }
int mkstemp64(char *name) { return TOLD(int, NEXT(mkstemp)(name), "mkstemp", found); }
int mkostemp(char *name, int how) { return TOLD(int, NEXT(mkostemp)(name, how), "mkostemp", found); }
int mkostemp64(char *name, int how) { return TOLD(int, NEXT(mkostemp)(name, how), "mkostemp", found); }

/* An operation on names: done, and recorded when it went well and lies within the root. */
#define NAMED(call, ...) ({ pthread_mutex_lock(&lock); int found = call; if (!found) { __VA_ARGS__; } \
    pthread_mutex_unlock(&lock); found; })

int mkdirat(int folder, const char *path, mode_t mode) {
    if (!ON()) return NEXT(mkdirat)(folder, path, mode);
    char room[PATH_MAX];
    struct stat seen;
    return NAMED(NEXT(mkdirat)(folder, path, mode), const char *name = name_at(folder, path, room);
                 if (name && !fstatat(folder, path, &seen, AT_SYMLINK_NOFOLLOW))
                     record(MKDIR, name, 0, 0, 0, seen.st_ino, 0, seen.st_mode & 07777));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int symlinkat(const char *target, int folder, const char *path) {
    if (!ON()) return NEXT(symlinkat)(target, folder, path);
    char room[PATH_MAX];
    struct stat seen;
    return NAMED(NEXT(symlinkat)(target, folder, path), const char *name = name_at(folder, path, room);
                 if (name && !fstatat(folder, path, &seen, AT_SYMLINK_NOFOLLOW))
                     record(SYMLINK, name, target, 0, 0, seen.st_ino, 0, 0));
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

int linkat(int from, const char *old, int to, const char *new, int how) {
    if (!ON()) return NEXT(linkat)(from, old, to, new, how);
    char room[PATH_MAX];
    struct stat seen;
    return NAMED(NEXT(linkat)(from, old, to, new, how), const char *name = name_at(to, new, room);
                 if (name && !fstatat(to, new, &seen, AT_SYMLINK_NOFOLLOW))
                     record(LINK, name, 0, 0, 0, seen.st_ino, 0, 0));
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int folder, const char *path, int how) {
    if (!ON()) return NEXT(unlinkat)(folder, path, how);
    char room[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *name = name_at(folder, path, room); /* before: a folder that is gone has no real path */
    int found = NEXT(unlinkat)(folder, path, how);
    if (!found && name) record(how & AT_REMOVEDIR ? RMDIR : UNLINK, name, 0, 0, 0, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    return found;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    int found = unlink(path);
    return found && errno == EISDIR ? rmdir(path) : found;
}

int renameat2(int from, const char *old, int to, const char *new, unsigned how) {
    if (!ON()) return NEXT(renameat2)(from, old, to, new, how);
    char one[PATH_MAX], two[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *before = name_at(from, old, one), *after = name_at(to, new, two);
    int found = NEXT(renameat2)(from, old, to, new, how);
    if (!found && (before || after)) {
        if (!before || !after || how & ~1u) unseen("a rename across the root, or an exchange");
        else record(RENAME, before, after, 0, 0, 0, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    return found;
}
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

/* Writing */

/* Where a write without an offset of its own goes. */
static off_t place_of(int fd, const struct stat *seen) {
    return fcntl(fd, F_GETFL) & O_APPEND ? seen->st_size : lseek(fd, 0, SEEK_CUR);
}

static void wrote(ino_t inode, off_t at, const struct iovec *parts, int count, ssize_t left) {
    for (int i = 0; i < count && left > 0; i++) {
        size_t size = (size_t)left < parts[i].iov_len ? (size_t)left : parts[i].iov_len;
        record(WRITE, 0, 0, parts[i].iov_base, size, inode, at, 0);
        at += (off_t)size, left -= (ssize_t)size;
    }
}

/* `at` -1: where the descriptor stands. */
#define WRITTEN(fd, at, parts, count, call) ({ ssize_t done; char room[PATH_MAX]; struct stat seen; \
    pthread_mutex_lock(&lock); \
    int within = name_of(fd, room, &seen) != 0; \
    off_t place = within && ((at) < 0 || fcntl(fd, F_GETFL) & O_APPEND) ? place_of(fd, &seen) : (at); \
    done = call; \
    if (within && done > 0) wrote(seen.st_ino, place, parts, count, done); \
    pthread_mutex_unlock(&lock); done; })

static int is_below(int fd) {
    char room[PATH_MAX];
    struct stat seen;
    return ON() && name_of(fd, room, &seen);
}

ssize_t write(int fd, const void *data, size_t size) {
    if (!is_below(fd)) return NEXT(write)(fd, data, size); /* a pipe may wait for long: not under the lock */
    struct iovec part = {(void *)data, size};
    return WRITTEN(fd, (off_t)-1, &part, 1, NEXT(write)(fd, data, size));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    if (!is_below(fd)) return NEXT(pwrite)(fd, data, size, at);
    struct iovec part = {(void *)data, size};
    return WRITTEN(fd, at, &part, 1, NEXT(pwrite)(fd, data, size, at));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return pwrite(fd, data, size, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!is_below(fd)) return NEXT(writev)(fd, parts, count);
    return WRITTEN(fd, (off_t)-1, parts, count, NEXT(writev)(fd, parts, count));
}
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int how) {
    if (!is_below(fd)) return NEXT(pwritev2)(fd, parts, count, at, how);
    if (how) unseen("pwritev2 with flags");
    return WRITTEN(fd, at, parts, count, NEXT(pwritev2)(fd, parts, count, at, how));
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off_t at, int how) {
    return pwritev2(fd, parts, count, at, how);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev2(fd, parts, count, at, 0); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) { return pwritev2(fd, parts, count, at, 0); }

/* `from` copied to `to`: the bytes are read once more, where they came from. */
#define COPIED(from, from_at, to, to_at, call) ({ struct stat seen; char room[PATH_MAX]; pthread_mutex_lock(&lock); \
    name_of(to, room, &seen); \
    off_t source = (from_at) ? *(from_at) : lseek(from, 0, SEEK_CUR); \
    off_t target = (to_at) ? *(to_at) : place_of(to, &seen); \
    ssize_t done = call; \
    if (done > 0) { \
        char *bytes = malloc((size_t)done); \
        if (!bytes || pread(from, bytes, (size_t)done, source) != done) unseen("a copy that cannot be read again"); \
        else record(WRITE, 0, 0, bytes, (size_t)done, seen.st_ino, target, 0); \
        free(bytes); \
    } \
    pthread_mutex_unlock(&lock); done; })

ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t size, unsigned how) {
    if (!is_below(to)) return NEXT(copy_file_range)(from, from_at, to, to_at, size, how);
    return COPIED(from, from_at, to, to_at, NEXT(copy_file_range)(from, from_at, to, to_at, size, how));
}
ssize_t sendfile(int to, int from, off_t *from_at, size_t size) {
    if (!is_below(to)) return NEXT(sendfile)(to, from, from_at, size);
    return COPIED(from, from_at, to, (off_t *)0, NEXT(sendfile)(to, from, from_at, size));
}
ssize_t sendfile64(int to, int from, off_t *from_at, size_t size) { return sendfile(to, from, from_at, size); }
ssize_t splice(int from, off_t *from_at, int to, off_t *to_at, size_t size, unsigned how) {
    return TOLD(ssize_t, NEXT(splice)(from, from_at, to, to_at, size, how), "splice", to);
}

/* Sizes, modes */

int ftruncate(int fd, off_t size) {
    if (!is_below(fd)) return NEXT(ftruncate)(fd, size);
    struct stat seen;
    return NAMED(NEXT(ftruncate)(fd, size), fstat(fd, &seen); record(TRUNCATE, 0, 0, 0, 0, seen.st_ino, size, 0));
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }
int truncate(const char *path, off_t size) {
    if (!ON()) return NEXT(truncate)(path, size);
    int fd = opened(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    int found = fd < 0 ? -1 : ftruncate(fd, size);
    if (fd >= 0) NEXT(close)(fd);
    return found;
}
int truncate64(const char *path, off_t size) { return truncate(path, size); }

static void allocated(int fd, int how, off_t at, off_t size) {
    struct stat seen;
    fstat(fd, &seen);
    if (how & ~3) unseen("fallocate of another kind");
    if (how & 2) { /* a hole: zeros, as far as the file goes */
        off_t end = at + size < seen.st_size ? at + size : seen.st_size;
        char *zeros = end > at ? calloc(1, (size_t)(end - at)) : 0;
        if (zeros) record(WRITE, 0, 0, zeros, (size_t)(end - at), seen.st_ino, at, 0);
        free(zeros);
    } else if (!(how & 1))
        record(TRUNCATE, 0, 0, 0, 0, seen.st_ino, seen.st_size, 0);
}
int fallocate(int fd, int how, off_t at, off_t size) {
    if (!is_below(fd)) return NEXT(fallocate)(fd, how, at, size);
    return NAMED(NEXT(fallocate)(fd, how, at, size), allocated(fd, how, at, size));
}
int fallocate64(int fd, int how, off_t at, off_t size) { return fallocate(fd, how, at, size); }
int posix_fallocate(int fd, off_t at, off_t size) {
    if (!is_below(fd)) return NEXT(posix_fallocate)(fd, at, size);
    return NAMED(NEXT(posix_fallocate)(fd, at, size), allocated(fd, 0, at, size));
}
int posix_fallocate64(int fd, off_t at, off_t size) { return posix_fallocate(fd, at, size); }

int fchmod(int fd, mode_t mode) {
    if (!is_below(fd)) return NEXT(fchmod)(fd, mode);
    struct stat seen;
    return NAMED(NEXT(fchmod)(fd, mode), fstat(fd, &seen); record(CHMOD, 0, 0, 0, 0, seen.st_ino, 0, mode & 07777));
}
int fchmodat(int folder, const char *path, mode_t mode, int how) {
    if (!ON()) return NEXT(fchmodat)(folder, path, mode, how);
    char room[PATH_MAX];
    struct stat seen;
    return NAMED(NEXT(fchmodat)(folder, path, mode, how),
                 if (name_at(folder, path, room) && !fstatat(folder, path, &seen, 0))
                     record(CHMOD, 0, 0, 0, 0, seen.st_ino, 0, mode & 07777));
}
int chmod(const char *path, mode_t mode) { return fchmodat(AT_FDCWD, path, mode, 0); }

/* Syncing */

static int synced(int fd, enum kind kind, int64_t at, int64_t size) {
    struct stat seen;
    if (!fstat(fd, &seen) && !(flags & (S_ISDIR(seen.st_mode) ? FOLDERS_LIE : FILES_LIE)))
        LOCKED(record(kind, 0, 0, 0, 0, seen.st_ino, at, size));
    return 0;
}
int fsync(int fd) { return is_below(fd) ? synced(fd, SYNC, 0, 0) : NEXT(fsync)(fd); }
int fdatasync(int fd) { return is_below(fd) ? synced(fd, DATASYNC, 0, 0) : NEXT(fdatasync)(fd); }
int sync_file_range(int fd, off_t at, off_t size, unsigned how) { /* promises nothing: it is no record */
    return is_below(fd) ? 0 : NEXT(sync_file_range)(fd, at, size, how);
}
void sync(void) {
    if (!ON()) NEXT(sync)();
    else if (!flags) LOCKED(record(SYNCALL, 0, 0, 0, 0, 0, 0, 0));
}
int syncfs(int fd) {
    if (!is_below(fd)) return NEXT(syncfs)(fd);
    return synced(fd, SYNCALL, 0, 0);
}
int msync(void *at, size_t size, int how) {
    if (!ON()) return NEXT(msync)(at, size, how);
    int found = NEXT(msync)(at, size, MS_ASYNC);
    if (!found && how & MS_SYNC)
        LOCKED(for (struct mapping *m = mappings; m < mappings + 64; m++)
            if (m->at && (char *)at < m->at + m->length && (char *)at + size > m->at)
                synced(m->fd, RANGESYNC, m->offset + ((char *)at > m->at ? (char *)at - m->at : 0), (int64_t)size));
    return found;
}

/* Mapping */

static void add_mapping(char *at, size_t length, int fd, off_t offset) {
    char room[PATH_MAX];
    struct stat seen;
    const char *name = name_of(fd, room, &seen);
    size_t end = name ? strlen(name) : 0;
    if (!name || (end > 4 && !strcmp(name + end - 4, "-shm"))) return;
    pthread_mutex_lock(&lock);
    look_at_mappings();
    struct mapping *m = mappings;
    while (m < mappings + 64 && m->at) m++;
    char *shadow = calloc(1, length);
    if (m == mappings + 64 || !shadow) unseen("more mappings than the layer looks at");
    else {
        size_t there = seen.st_size <= offset ? 0 : (size_t)(seen.st_size - offset);
        memcpy(shadow, at, there < length ? there : length);
        *m = (struct mapping){at, shadow, length, offset, seen.st_ino, fcntl(fd, F_DUPFD_CLOEXEC, 100)};
    }
    pthread_mutex_unlock(&lock);
}
void *mmap(void *where, size_t length, int access, int how, int fd, off_t offset) {
    void *at = NEXT(mmap)(where, length, access, how, fd, offset);
    if (ON() && at != MAP_FAILED && fd >= 0 && access & PROT_WRITE && how & MAP_SHARED)
        add_mapping(at, length, fd, offset);
    return at;
}
void *mmap64(void *where, size_t length, int access, int how, int fd, off_t offset) {
    return mmap(where, length, access, how, fd, offset);
}
int munmap(void *at, size_t length) {
    if (!ON()) return NEXT(munmap)(at, length);
    pthread_mutex_lock(&lock);
    for (struct mapping *m = mappings; m < mappings + 64; m++) {
        if (!m->at || (char *)at >= m->at + m->length || (char *)at + length <= m->at) continue;
        look_at_mappings();
        free(m->shadow), NEXT(close)(m->fd), m->at = 0;
    }
    int found = NEXT(munmap)(at, length);
    pthread_mutex_unlock(&lock);
    return found;
}
void *mremap(void *at, size_t length, size_t wanted, int how, ...) {
    va_list rest;
    va_start(rest, how);
    void *where = va_arg(rest, void *);
    va_end(rest);
    for (struct mapping *m = mappings; ON() && m < mappings + 64; m++)
        if (m->at == at) unseen("mremap");
    return NEXT(mremap)(at, length, wanted, how, where);
}

/* System calls made by their number: those that change files are not looked into. */
long syscall(long number, ...) {
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long), d = va_arg(rest, long),
         e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    if (ON()) switch (number) {
        case SYS_openat: case SYS_write: case SYS_pwrite64: case SYS_writev: case SYS_pwritev: case SYS_pwritev2:
        case SYS_ftruncate: case SYS_truncate: case SYS_fallocate: case SYS_renameat2: case SYS_unlinkat:
        case SYS_linkat: case SYS_symlinkat: case SYS_mkdirat: case SYS_fsync: case SYS_fdatasync: case SYS_sync:
        case SYS_syncfs: case SYS_msync: case SYS_copy_file_range: case SYS_sendfile: case SYS_mmap:
        case 425: /* io_uring_setup */ case 437: /* openat2 */
            unseen("a file operation by syscall()");
        }
    return NEXT(syscall)(number, a, b, c, d, e, f);
}
