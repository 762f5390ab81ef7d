package systemtest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// refusal is why a repository takes nothing.
type refusal struct {
	kind, words string // of the group of failures
	slugs       []string
}

// refusals are a batch's, by what refuses.
type refusals struct{ scope, gone, restricted, full refusal }

// trouble stands before the stand-in Bitbucket. After every so many requests of a kind it answers 429 for a while, until it has done so
// often enough; some requests lose their connection at one of five places; and some repositories refuse.
type trouble struct {
	next   http.Handler
	every  int           // requests of git, and of REST, between two spells of 429
	spell  time.Duration // how long each takes
	spells int           // of a kind; every second one says Retry-After
	resets float64       // part of all requests
	refuse refusals

	mu      sync.Mutex
	random  *rand.Rand
	rates   [2]rate // git, REST
	broken  [5]int  // by place
	repos   map[string]*asked
	limited [2]int // answers of 429 with Retry-After, and without
}

// rate is how far one kind of requests has come to the next 429.
type rate struct {
	count, spells int
	until         time.Time
}

// asked counts what was asked of one repository.
type asked struct {
	requests, resets int
	refusals         int // that were answered whole
	after            int // requests that could change something, after the refusal
}

var places = [5]string{"before the body", "in the body", "after the body", "in the answer", "after the answer"}

// oneAttempt is how many requests an attempt takes that makes a branch and lacks the scope for it. It asks to push while it reads, where
// that fails for the branch and again for its base, and says so at the push: a change that turns out to be none needs no push.
const oneAttempt = 8

func (p *trouble) around(next http.Handler) http.Handler {
	p.next, p.repos = next, map[string]*asked{}
	return p
}

func (p *trouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	slug := slugOf(r)
	refused := p.refuses(slug, r)
	limited, retryAfter, place := p.decide(slug, r, refused)
	switch {
	case limited:
		if retryAfter {
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, "Rate limit for this resource has been exceeded", http.StatusTooManyRequests)
	case place >= 0:
		p.reset(w, r, place)
	case refused && slices.Contains(p.refuse.scope.slugs, slug):
		http.Error(w, "Your credentials lack one or more required privilege scopes.", http.StatusForbidden)
	default:
		p.next.ServeHTTP(w, r)
	}
}

// refuses says whether the answer to the request is the repository's refusal.
func (p *trouble) refuses(slug string, r *http.Request) bool {
	pushes := strings.HasSuffix(r.URL.Path, "/git-receive-pack")
	switch {
	case slices.Contains(p.refuse.scope.slugs, slug):
		return pushes || r.URL.Query().Get("service") == "git-receive-pack"
	case slices.Contains(p.refuse.gone.slugs, slug):
		return true
	}
	return pushes && (slices.Contains(p.refuse.restricted.slugs, slug) || slices.Contains(p.refuse.full.slugs, slug))
}

// decide counts a request and says what becomes of it: a 429, a reset at a place, or, with -1, neither. A refusal is always told whole, so
// that whoever asks again has heard it. Where the scope is missing nothing
// else goes wrong, so that the requests of its attempt can be counted.
func (p *trouble) decide(slug string, r *http.Request, refused bool) (limited, retryAfter bool, place int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	repo := p.repos[slug]
	if repo == nil {
		repo = &asked{}
		p.repos[slug] = repo
	}
	repo.requests++
	calm := slices.Contains(p.refuse.scope.slugs, slug)
	kind, now := &p.rates[0], time.Now()
	if strings.HasPrefix(r.URL.Path, "/2.0/") {
		kind = &p.rates[1]
	}
	if now.After(kind.until) {
		if kind.count++; kind.count%p.every == 0 && kind.spells < p.spells {
			kind.spells++
			kind.until = now.Add(p.spell)
		}
	}
	switch reads := r.Method == http.MethodGet && r.URL.Query().Get("service") == "" || strings.HasSuffix(r.URL.Path, "/git-upload-pack"); {
	case now.Before(kind.until) && !calm:
		retryAfter = kind.spells%2 == 1
		if retryAfter {
			p.limited[0]++
		} else {
			p.limited[1]++
		}
		return true, retryAfter, -1
	case repo.refusals > 0 && (!reads || refused):
		repo.after++
		return false, false, -1
	case refused:
		repo.refusals++
		return false, false, -1
	case calm || p.random.Float64() >= p.resets:
		return false, false, -1
	}
	place = p.random.IntN(len(places))
	repo.resets++
	p.broken[place]++
	return false, false, place
}

// reset breaks the connection of a request at a place.
func (p *trouble) reset(w http.ResponseWriter, r *http.Request, place int) {
	switch place {
	case 1:
		_, _ = io.CopyN(io.Discard, r.Body, max(r.ContentLength/2, 1)) // there may be none
	case 2:
		_, _ = io.Copy(io.Discard, r.Body) // the client may have gone
	case 3:
		gittest.Reset(50)(w, r, p.next)
		return
	case 4:
		gittest.Reset(100)(w, r, p.next)
		return
	}
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, is := connection.(*net.TCPConn); is {
		_ = tcp.SetLinger(0) // a reset, not an orderly end
	}
	_ = connection.Close()
}

// badDay is a batch under all of this.
type badDay struct {
	repositories, refused int // the second are of the first, over four reasons
	every, spells         int
	spell                 time.Duration
	seed                  uint64
}

// weathered is what came of it.
type weathered struct {
	found
	succeeded, failed int
	refusals, after   int // requests that were refused for good, and such that were made afterwards
	polls             int
	took              time.Duration
	groups            []batch.Group
}

func (b badDay) trouble() *trouble {
	p := &trouble{every: b.every, spells: b.spells, spell: b.spell, resets: 0.02, random: rand.New(rand.NewPCG(b.seed, 0))}
	p.refuse = refusals{
		scope:      refusal{kind: "denied", words: "the token lacks the scope write:repository:bitbucket"},
		gone:       refusal{kind: "denied", words: "the server took the token for nothing: it is revoked, or the repository does not exist"},
		restricted: refusal{kind: "denied", words: `Permission denied to update branch chore/licence.`},
		full:       refusal{kind: "too_large", words: "repository is in read only mode (over 4 GB size limit)."},
	}
	all := p.refuse.all()
	for i := range b.refused {
		each := all[i%len(all)]
		each.slugs = append(each.slugs, fmt.Sprintf("r%d", 1+i*b.repositories/b.refused))
	}
	return p
}

func (r *refusals) all() []*refusal { return []*refusal{&r.scope, &r.gone, &r.restricted, &r.full} }

func (r *refusals) has(slug string) bool {
	return slices.ContainsFunc(r.all(), func(each *refusal) bool { return slices.Contains(each.slugs, slug) })
}

func (b badDay) run(t testing.TB) (weathered, *trouble) {
	t.Helper()
	t.Logf("seed %d", b.seed)
	p := b.trouble()
	f := startFleet(t, b.repositories, p.around)
	defer f.s.end()
	for _, slug := range p.refuse.gone.slugs { // it was given another name
		if err := f.s.bitbucket.Rename(workspace, slug, slug+"-elsewhere"); err != nil {
			t.Fatal(err)
		}
	}
	for _, slug := range p.refuse.restricted.slugs {
		if err := f.s.bitbucket.Restrict(workspace, slug, "chore/licence"); err != nil {
			t.Fatal(err)
		}
	}
	for _, slug := range p.refuse.full.slugs {
		if err := f.s.bitbucket.SetReadOnly(workspace, slug, "4 GB"); err != nil {
			t.Fatal(err)
		}
	}
	f.s.startSoakWorker("GITSMITH_CONCURRENCY=8")
	since := time.Now()
	f.submit("chore/licence", 16)
	done := f.await(20*time.Minute, "it finishes", isFinished)
	r := weathered{
		succeeded: done.Totals[batch.Succeeded], failed: done.Totals[batch.Failed], took: time.Since(since), groups: done.Failures,
	}
	r.found = f.judge(func(i int) bool { return p.refuse.has(f.slugs[i]) })
	r.polls = f.polls
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, item := range f.items() {
		repo := p.repos[f.slugs[i]]
		if item.Attempts > 1+repo.resets {
			t.Errorf("%s took %d attempts, and its connections broke %d times", f.slugs[i], item.Attempts, repo.resets)
		}
		if !p.refuse.has(f.slugs[i]) {
			continue
		}
		if slices.Contains(p.refuse.scope.slugs, f.slugs[i]) && item.Attempts == 1 && repo.requests <= oneAttempt {
			repo.after = 0 // of the attempt itself
		}
		r.refusals, r.after = r.refusals+repo.refusals, r.after+repo.after
		if repo.refusals != 1 || repo.after != 0 {
			t.Errorf("%s was refused for good, and asked again %d times (%d requests in all, %d attempts)", f.slugs[i], repo.after, repo.requests, item.Attempts)
		}
	}
	return r, p
}

func (r weathered) check(t testing.TB, b badDay, p *trouble) {
	t.Helper()
	t.Logf("%+v, 429 with and without Retry-After %v, reset %v", r, p.limited, p.broken)
	if good := b.repositories - b.refused; r.succeeded != good || r.commits != good || r.pullRequests != good || r.duplicates+r.lost+r.unsound+r.apart > 0 {
		t.Errorf("want %d done once", good)
	}
	if r.failed != b.refused || len(r.groups) != 4 {
		t.Errorf("%d failed in %d groups: %+v", r.failed, len(r.groups), r.groups)
	}
	for _, want := range p.refuse.all() {
		matches := func(group batch.Group) bool {
			return group.Kind == want.kind && strings.Contains(group.Reason, want.words) && group.Count == len(want.slugs) && group.Examples[0] == "acme/"+want.slugs[0]
		}
		if !slices.ContainsFunc(r.groups, matches) {
			t.Errorf("no group is %+v: %+v", want, r.groups)
		}
	}
	if p.limited[0] == 0 || p.limited[1] == 0 || p.broken == [5]int{} {
		t.Error("there was no trouble")
	}
}

// TestBatchTrouble: rate limits and broken connections delay a batch and change nothing; what cannot succeed is asked once and named.
func TestBatchTrouble(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long; make test-all runs it")
	}
	b := badDay{repositories: 40, refused: 4, every: 25, spells: 6, spell: 500 * time.Millisecond, seed: rand.Uint64()}
	r, p := b.run(t)
	r.check(t, b, p)
}
