package postgres

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/proxy"
)

// File descriptors run out before anything else does where `ulimit -n` is low. That is weir's own trouble, and says nothing of the database.
// So that those who are in can go on being served, and operators can see why others are not, some are kept for server connections, cancel
// requests and the admin listener: a client whose socket would be one of those is refused.
// Go has raised the soft limit to the hard one before main runs.
const (
	ownFiles       = 64               // log, loops, admin listener and its clients, Redis, cancel requests, and spareFiles
	spareFiles     = 16               // of clients that are heard, in case what they have is a cancel request, before they are turned away
	shortageHolds  = 10 * time.Second // for how long a shortage keeps a weir from being ready
	shortageSpeaks = 10 * time.Second // between two lines in the log
)

// files are the file descriptors of this process.
type files struct {
	limit   int // RLIMIT_NOFILE when the server was made; 0: not known
	clients int // of clients are below this number
	short   atomic.Int64
	said    atomic.Int64 // when the log was told, both in nanoseconds since 1970; 0: never
	times   atomic.Int64 // that there was no descriptor, or none but those that are kept
}

// set takes note of the limit, and of what has to be kept for so many server connections.
func (f *files) set(connections int) {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	f.limit = int(min(limit.Cur, 1<<30))
	f.clients = max(f.limit-connections-ownFiles, f.limit/4)
}

// isShortage reports whether an error is that this process, or this machine, has no file descriptor left.
func isShortage(err error) bool {
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) { // which keeps of its cause only the text
		return strings.Contains(dns.Err, syscall.EMFILE.Error()) || strings.Contains(dns.Err, syscall.ENFILE.Error())
	}
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// ranShort takes note of a shortage.
func (s *Server) ranShort(cause error) {
	now := time.Now().UnixNano()
	s.files.short.Store(now)
	s.files.times.Add(1)
	if said := s.files.said.Load(); now-said > int64(shortageSpeaks) && s.files.said.CompareAndSwap(said, now) {
		s.log.Error("file descriptors run out: raise the limit (ulimit -n, LimitNOFILE), or lower limits.clients", "limit", s.files.limit, "cause", cause)
	}
}

// shortage is nil, or that file descriptors ran out a moment ago.
func (f *files) shortage() error {
	if short := f.short.Load(); short == 0 || time.Now().UnixNano()-short > int64(shortageHolds) {
		return nil
	}
	return fmt.Errorf("file descriptors run out: the limit is %d", f.limit)
}

// tooManyFiles is the refusal of a client whose socket is one of those that are kept.
func (s *Server) tooManyFiles(fd int) *proxy.Refusal {
	return proxy.Refuse(proxy.Descriptors, "ulimit -n", strconv.Itoa(fd), strconv.Itoa(s.files.clients), listenerRetry)
}

// refuseForFiles refuses a client whose socket is one of those that are kept. Some are heard first, since a cancel request needs no room.
func (s *Server) refuseForFiles(loop *eventloop.Loop, fd int) {
	why := s.tooManyFiles(fd)
	if fd < s.files.clients+2*spareFiles { // some are about to be closed
		s.refuse(loop, fd, why)
	} else {
		s.refuseAtOnce(loop, fd, why)
	}
}

// refuseAtOnce says why, and closes the socket, whatever the client has to say.
func (s *Server) refuseAtOnce(loop *eventloop.Loop, fd int, why *proxy.Refusal) {
	s.refused.Add(why.Label, 1)
	e := said(why)
	e.Severity = "FATAL"
	loop.Go(func(f *eventloop.Fiber) {
		if conn, err := eventloop.NewStream(f, fd); err == nil {
			_, _ = conn.Write(pgwire.AppendError(nil, e)) // into an empty buffer: that does not wait
			_ = conn.Close()
		}
	})
}

// MostClients is how many clients this process has file descriptors for beside so many server connections; 0: that is not known.
func MostClients(connections int) int {
	var f files
	f.set(connections)
	return f.clients
}
