package tipcache_test

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/tipcache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func blob(content string) tipcache.Object {
	return tipcache.Object{ID: sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(content), content)), Kind: 3, Content: []byte(content)}
}

func open(t testing.TB, limit int64) (*tipcache.Cache, string) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "tips")
	cache, err := tipcache.Open(folder, limit)
	if err != nil {
		t.Fatal(err)
	}
	return cache, folder
}

func key(repository string) tipcache.Key {
	return tipcache.Key{Installation: "one", Repository: repository}
}

func store(t testing.TB, cache *tipcache.Cache, key tipcache.Key, meta string, objects ...tipcache.Object) {
	t.Helper()
	if err := cache.Store(key, []byte(meta), nil, nil, objects); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, cache *tipcache.Cache, key tipcache.Key) *tipcache.Entry {
	t.Helper()
	entry := cache.Load(key)
	if entry != nil {
		t.Cleanup(func() { _ = entry.Close() }) // only read
	}
	return entry
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	cache, folder := open(t, 1<<20)
	a, b, c := blob("a"), blob(""), blob("third")
	store(t, cache, key("r"), "meta", a, b, a)
	entry := load(t, cache, key("r"))
	if entry == nil || string(entry.Meta) != "meta" || entry.Size() != 1 || !entry.Has(b.ID) || entry.Has(c.ID) || entry.Kind(a.ID) != 3 || entry.SizeOf(a.ID) != 1 {
		t.Fatalf("%+v", entry)
	}
	for _, want := range []tipcache.Object{a, b} {
		if got, here := entry.Get(want.ID); !here || !bytes.Equal(got.Content, want.Content) || got.Kind != 3 || got.ID != want.ID {
			t.Errorf("%q %t, want %q", got.Content, here, want.Content)
		}
	}
	if _, here := entry.Get(c.ID); here {
		t.Error("an object that was never kept")
	}
	// What is kept of the old, and what is added.
	err := cache.Store(key("r"), []byte("next"), entry, func(id tipcache.ID) bool { return id == a.ID }, []tipcache.Object{c})
	if err != nil {
		t.Fatal(err)
	}
	next := load(t, cache, key("r"))
	if string(next.Meta) != "next" || !next.Has(a.ID) || next.Has(b.ID) || !next.Has(c.ID) {
		t.Errorf("%+v", next)
	}
	if got, here := entry.Get(b.ID); !here || len(got.Content) != 0 {
		t.Error("an entry that was loaded is as it was")
	}
	if got, here := next.Get(a.ID); !here || string(got.Content) != "a" {
		t.Errorf("taken over: %q", got.Content)
	}
	cache.Remove(key("r"))
	if load(t, cache, key("r")) != nil {
		t.Error("removed, and there")
	}
	info, err := os.Stat(folder)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestInstallationsAreApart(t *testing.T) {
	t.Parallel()
	cache, folder := open(t, 1<<20)
	store(t, cache, tipcache.Key{Installation: "one", Repository: "acme/secret"}, "m", blob("a"))
	for _, other := range []tipcache.Key{{"two", "acme/secret"}, {"", "acme/secret"}, {"one", "acme/secre"}, {"oneacme/secret", ""}, {"one\x00acme", "secret"}} {
		if load(t, cache, other) != nil {
			t.Errorf("%q sees it", other)
		}
	}
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(files) != 1 || bytes.Contains([]byte(files[0]), []byte("secret")) {
		t.Errorf("%v %v", files, err)
	}
}

// TestLeastRecentlyUsedGoes: what was loaded last stays, whatever was written last.
func TestLeastRecentlyUsedGoes(t *testing.T) {
	t.Parallel()
	cache, folder := open(t, 10_000)
	content := string(make([]byte, 2000))
	files := map[string]string{}
	for i := range 4 {
		name := fmt.Sprint(i)
		store(t, cache, key(name), "", blob(content+name))
		all, err := filepath.Glob(filepath.Join(folder, "*.tip"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range all {
			if !slices.Contains(slices.Collect(maps.Values(files)), file) {
				files[name] = file
			}
		}
		when := time.Now().Add(time.Duration(i-100) * time.Minute)
		if err := os.Chtimes(files[name], when, when); err != nil {
			t.Fatal(err)
		}
	}
	load(t, cache, key("0"))
	store(t, cache, key("4"), "", blob(content+"4"))
	for name, want := range map[string]bool{"0": true, "1": false, "3": true, "4": true} {
		if got := load(t, cache, key(name)) != nil; got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
	var size int64
	all, _ := filepath.Glob(filepath.Join(folder, "*"))
	for _, file := range all {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 10_000 {
		t.Errorf("%d bytes are held", size)
	}
	if err := cache.Store(key("large"), nil, nil, nil, []tipcache.Object{blob(content + content + content)}); err == nil || load(t, cache, key("large")) != nil {
		t.Errorf("an entry of more than half of the cache: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(folder, ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOpenTakesOverAndTidies(t *testing.T) {
	t.Parallel()
	cache, folder := open(t, 1<<20)
	for i := range 4 {
		store(t, cache, key(fmt.Sprint(i)), "", blob(string(make([]byte, 2000+i))))
	}
	abandoned, fresh := filepath.Join(folder, ".new-1"), filepath.Join(folder, ".new-2")
	for _, file := range []string{abandoned, fresh} {
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(abandoned, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := tipcache.Open(folder, 5000); err != nil {
		t.Fatal(err)
	}
	entries, _ := filepath.Glob(filepath.Join(folder, "*.tip"))
	if len(entries) != 2 {
		t.Errorf("%d entries in 5,000 bytes", len(entries))
	}
	if _, err := os.Stat(abandoned); err == nil {
		t.Error("what a killed writer left stays")
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Error("what another process is writing is gone")
	}
	if _, err := tipcache.Open(filepath.Join(fresh, "below"), 1); err == nil {
		t.Error("a folder below a file")
	}
}

// TestDamage cuts an entry's file at every length and flips each byte: an object that is given is the one that was kept.
func TestDamage(t *testing.T) {
	t.Parallel()
	cache, folder := open(t, 1<<20)
	objects := []tipcache.Object{blob("first object"), blob("second"), blob("")}
	store(t, cache, key("r"), "the meta", objects...)
	files, err := filepath.Glob(filepath.Join(folder, "*.tip"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, content []byte, intact bool) {
		t.Helper()
		if err := os.WriteFile(files[0], content, 0o600); err != nil {
			t.Fatal(err)
		}
		entry := cache.Load(key("r"))
		if entry == nil {
			if _, err := os.Stat(files[0]); err == nil {
				t.Errorf("%s: it is not removed", what)
			}
			return
		}
		if string(entry.Meta) != "the meta" {
			t.Errorf("%s: meta %q", what, entry.Meta)
		}
		found := 0
		for _, want := range objects {
			got, here := entry.Get(want.ID)
			if here && !bytes.Equal(got.Content, want.Content) {
				t.Errorf("%s: %q for %q", what, got.Content, want.Content)
			}
			if here != entry.Has(want.ID) {
				t.Errorf("%s: what was found damaged is still listed", what)
			}
			if here {
				found++
			}
		}
		if !intact && found == len(objects) {
			t.Errorf("%s: nothing was missed", what)
		}
		// What is damaged is not taken over.
		if err := cache.Store(key("copy"), []byte("m"), entry, nil, nil); err != nil && intact {
			t.Errorf("%s: %v", what, err)
		}
		if err := entry.Close(); err != nil {
			t.Error(err)
		}
	}
	check("whole", whole, true)
	for n := range whole {
		check(fmt.Sprintf("cut at %d", n), whole[:n], false)
		flipped := slices.Clone(whole)
		flipped[n] ^= 0x41
		check(fmt.Sprintf("flipped at %d", n), flipped, false)
	}
}

func TestConcurrently(t *testing.T) {
	t.Parallel()
	cache, _ := open(t, 20_000)
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 100 {
				name := fmt.Sprint(random.IntN(6))
				object := blob(name + string(make([]byte, 1000)))
				entry := cache.Load(key(name))
				if entry != nil {
					if got, here := entry.Get(object.ID); here && !bytes.Equal(got.Content, object.Content) {
						t.Errorf("%s: another's object", name)
					}
				}
				if err := cache.Store(key(name), []byte(name), entry, nil, []tipcache.Object{object}); err != nil {
					t.Error(err)
				}
				if entry != nil {
					_ = entry.Close() // only read
				}
				if random.IntN(5) == 0 {
					cache.Remove(key(name))
				}
			}
		})
	}
	group.Wait()
}

// BenchmarkStore stores one new object beside 4,000 old ones of 500 bytes, which are all kept.
func BenchmarkStore(b *testing.B) {
	cache, _ := open(b, 1<<30)
	objects := make([]tipcache.Object, 4000)
	for i := range objects {
		objects[i] = blob(fmt.Sprintf("%0500d", i))
	}
	store(b, cache, key("r"), "meta", objects...)
	entry := load(b, cache, key("r"))
	for n := 0; b.Loop(); n++ {
		if err := cache.Store(key("r"), []byte("meta"), entry, nil, []tipcache.Object{blob(fmt.Sprint(n))}); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzLoad reads files of any content: what they give is what it is called.
func FuzzLoad(f *testing.F) {
	cache, folder := open(f, 1<<20)
	store(f, cache, key("r"), "meta", blob("a"), blob("bc"))
	files, err := filepath.Glob(filepath.Join(folder, "*.tip"))
	if err != nil || len(files) != 1 {
		f.Fatal(files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:20])
	f.Add([]byte("GTC1\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(files[0], content, 0o600); err != nil {
			t.Fatal(err)
		}
		entry := cache.Load(key("r"))
		if entry == nil {
			return
		}
		for _, want := range []tipcache.Object{blob("a"), blob("bc")} {
			if got, here := entry.Get(want.ID); here && !bytes.Equal(got.Content, want.Content) {
				t.Errorf("%q for %q", got.Content, want.Content)
			}
		}
		if err := entry.Close(); err != nil {
			t.Error(err)
		}
	})
}
