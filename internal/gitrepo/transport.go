package gitrepo

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Phase is one of the kinds of request of git's smart HTTP protocol.
type Phase string

// The phases.
const (
	AdvertiseUpload  Phase = "advertise_upload"  // GET info/refs?service=git-upload-pack
	ListRefs         Phase = "list_refs"         // POST git-upload-pack, command ls-refs of protocol version 2
	UploadPack       Phase = "upload_pack"       // POST git-upload-pack
	AdvertiseReceive Phase = "advertise_receive" // GET info/refs?service=git-receive-pack
	ReceivePack      Phase = "receive_pack"      // POST git-receive-pack
)

const (
	userAgent    = "git/gitsmith"
	tokenUser    = "x-token-auth"
	maxErrorBody = 4 << 10 // bytes of an error's body that are read
	uploadPack   = "git-upload-pack"
	receivePack  = "git-receive-pack"
)

// advertise asks what a service has and can do, by protocol version 2 where it speaks that. The caller closes the answer.
func (c *Client) advertise(ctx context.Context, remote Remote, phase Phase, op operation) (io.ReadCloser, error) {
	service := uploadPack
	if phase == AdvertiseReceive {
		service = receivePack
	}
	return c.do(ctx, remote, op, request{
		phase: phase, method: http.MethodGet, path: "/info/refs?service=" + service,
		accept: "application/x-" + service + "-advertisement", v2: phase == AdvertiseUpload,
	})
}

// post sends a request of a service. The caller closes the answer.
func (c *Client) post(ctx context.Context, remote Remote, phase Phase, op operation, s server, body io.Reader, length int64) (io.ReadCloser, error) {
	service := uploadPack
	if phase == ReceivePack {
		service = receivePack
	}
	return c.do(ctx, remote, op, request{
		phase: phase, method: http.MethodPost, path: "/" + service, body: body, length: length,
		contentType: "application/x-" + service + "-request", accept: "application/x-" + service + "-result",
		v2: s.V2 && phase != ReceivePack,
	})
}

type request struct {
	phase       Phase
	method      string
	path        string
	body        io.Reader
	length      int64 // of body; -1 where it is not known
	contentType string
	accept      string // the only content type that is a git answer
	v2          bool   // ask for protocol version 2
}

// do sends a request with the token as password and returns the body of a git answer, bounded by the idle timeout. Anything
// else is a fault: the status is classified, and the body of an error is read up to a bound and then dropped.
func (c *Client) do(ctx context.Context, remote Remote, op operation, r request) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	asked, err := http.NewRequestWithContext(ctx, r.method, remote.Repository.GitURL(c.config.Base)+r.path, r.body)
	if err != nil {
		cancel(nil)
		return nil, fault.Wrapf(fault.Internal, err, "%s: the request cannot be made", op)
	}
	asked.SetBasicAuth(tokenUser, remote.Token.Reveal())
	asked.Header.Set("User-Agent", userAgent)
	asked.Header.Set("Accept", r.accept)
	if r.body != nil {
		asked.ContentLength = r.length
		asked.Header.Set("Content-Type", r.contentType)
	}
	if r.v2 {
		asked.Header.Set("Git-Protocol", "version=2")
	}
	transfer := Transfer{Phase: r.phase, Sent: max(r.length, 0)}
	answer, err := c.http.Do(asked) //nolint:bodyclose // the idle reader closes it, and the caller that
	if err != nil {
		err = classifyNetwork(ctx, op, err)
		cancel(nil)
		c.observe(transfer)
		return nil, err
	}
	transfer.Status = answer.StatusCode
	body := newIdleReader(ctx, cancel, answer.Body, c.config.IdleTimeout, func(received int64) {
		transfer.Received = received
		c.observe(transfer)
	})
	if answer.StatusCode == http.StatusOK && isType(answer.Header, r.accept) {
		return body, nil
	}
	text, _ := io.ReadAll(io.LimitReader(body, maxErrorBody)) // whatever came of it
	_ = body.Close()
	return nil, classifyStatus(op, answer.StatusCode, retryAfter(answer.Header), string(text))
}

func (c *Client) observe(transfer Transfer) {
	if c.config.Observe != nil {
		c.config.Observe(transfer)
	}
}

func isType(header http.Header, want string) bool {
	got, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	return err == nil && strings.EqualFold(got, want)
}

// retryAfter reads the header's two forms (RFC 9110, 10.2.3), at most an hour.
func retryAfter(header http.Header) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, time.Hour)
	}
	if when, err := http.ParseTime(text); err == nil {
		return min(max(time.Until(when), 0), time.Hour)
	}
	return 0
}

var errIdle = errors.New("the server sent nothing for too long")

// idleReader ends a body on which nothing moves for the timeout, and counts what came.
type idleReader struct {
	body     io.ReadCloser
	ctx      context.Context //nolint:containedctx // it lives as long as the body
	cancel   context.CancelCauseFunc
	timeout  time.Duration
	timer    *time.Timer
	received atomic.Int64
	done     func(received int64)
	closed   atomic.Bool
}

func newIdleReader(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, timeout time.Duration, done func(int64)) *idleReader {
	return &idleReader{
		body: body, ctx: ctx, cancel: cancel, timeout: timeout, done: done,
		timer: time.AfterFunc(timeout, func() { cancel(errIdle) }),
	}
}

func (r *idleReader) Read(p []byte) (int, error) {
	r.timer.Reset(r.timeout)
	n, err := r.body.Read(p)
	r.timer.Stop() // nobody reads: the server is not to blame
	r.received.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(r.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (r *idleReader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.timer.Stop()
	r.cancel(nil) // first, so that a Read that waits ends
	err := r.body.Close()
	r.done(r.received.Load())
	return err
}
