package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, options Options) *Spool {
	t.Helper()
	s, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func add(t *testing.T, s *Spool, contents ...string) {
	t.Helper()
	for _, content := range contents {
		if err := s.Append(t.Context(), []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
}

// drained is everything that can be taken.
func drained(t *testing.T, s *Spool) []string {
	t.Helper()
	var taken []string
	n, err := s.Drain(t.Context(), func(_ context.Context, content []byte) error {
		taken = append(taken, string(content))
		return nil
	})
	if err != nil || n != len(taken) {
		t.Fatalf("drained %d of %d: %v", n, len(taken), err)
	}
	return taken
}

func files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestRecordsAreTakenInOrderByALaterProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, Options{Dir: dir, SegmentBytes: 100})
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprintf("record %d", i))
	}
	add(t, first, want[:30]...)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := open(t, Options{Dir: dir, SegmentBytes: 100})
	add(t, second, want[30:]...)
	stats := second.Stats()
	if stats.Records != 50 || stats.Oldest.IsZero() || stats.Bytes == 0 {
		t.Errorf("stats %+v", stats)
	}
	if got := drained(t, second); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if left := files(t, dir, "*.spool*"); len(left) > 0 || second.Stats() != (Stats{}) {
		t.Errorf("left %q, %+v", left, second.Stats())
	}
}

func TestOneProcessAtATime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, Options{Dir: dir})
	if _, err := Open(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another process has") {
		t.Errorf("a second one: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Dir: dir})
	if err := first.Append(t.Context(), []byte("late")); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("append to a closed one: %v", err)
	}
}

func TestDrainStopsAtAnErrorAndKeepsItsPlace(t *testing.T) {
	t.Parallel()
	s := open(t, Options{Dir: t.TempDir()})
	add(t, s, "a", "b", "c")
	away := errors.New("away")
	var seen []string
	n, err := s.Drain(t.Context(), func(ctx context.Context, content []byte) error {
		seen = append(seen, string(content))
		if string(content) == "b" {
			return errors.Join(away, s.Append(ctx, []byte("d"))) // appends go on while records are taken
		}
		return nil
	})
	if n != 1 || !errors.Is(err, away) || s.Stats().Records != 3 {
		t.Errorf("took %d: %v, %+v", n, err, s.Stats())
	}
	if got := append(seen, drained(t, s)...); !slices.Equal(got, []string{"a", "b", "b", "c", "d"}) {
		t.Errorf("got %q", got)
	}
}

func TestTogether(t *testing.T) {
	t.Parallel()
	s := open(t, Options{Dir: t.TempDir(), SegmentBytes: 500})
	const writers, each = 16, 50
	var group sync.WaitGroup
	for writer := range writers {
		group.Go(func() {
			for i := range each {
				if err := s.Append(t.Context(), fmt.Appendf(nil, "%d/%d", writer, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	last := make([]int, writers)
	taken := 0
	take := func(_ context.Context, content []byte) error {
		var writer, i int
		if _, err := fmt.Sscanf(string(content), "%d/%d", &writer, &i); err != nil {
			return err
		}
		if i != last[writer] {
			t.Errorf("writer %d: %d after %d", writer, i, last[writer]-1)
		}
		last[writer]++
		taken++
		return nil
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if _, err := s.Drain(t.Context(), take); err != nil {
			t.Fatal(err)
		}
	}
	if taken != writers*each {
		t.Errorf("took %d of %d", taken, writers*each)
	}
}

func TestFull(t *testing.T) {
	t.Parallel()
	now := time.Now()
	expired := 0
	s := open(t, Options{
		Dir: t.TempDir(), MaxBytes: 100, SegmentBytes: 30, MaxAge: time.Hour, Now: func() time.Time { return now },
		Expired: func(count int) { expired += count },
	})
	add(t, s, "0123456789", "0123456789", "0123456789")
	err := s.Append(t.Context(), []byte("0123456789"))
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.Public(err), "GITSMITH_SPOOL_SIZE") {
		t.Errorf("into a full one: %v", err)
	}
	now = now.Add(2 * time.Hour)
	add(t, s, "young") // what is too old makes room
	if got := drained(t, s); expired == 0 || !slices.Equal(got, []string{"young"}) {
		t.Errorf("took %q, %d expired", got, expired)
	}
}

func TestExpiredRecordsAreDroppedAndCounted(t *testing.T) {
	t.Parallel()
	now := time.Now()
	expired := 0
	s := open(t, Options{Dir: t.TempDir(), MaxAge: time.Hour, Now: func() time.Time { return now }, Expired: func(count int) { expired += count }})
	add(t, s, "old", "old")
	now = now.Add(50 * time.Minute)
	add(t, s, "young")
	now = now.Add(20 * time.Minute)
	if got := drained(t, s); !slices.Equal(got, []string{"young"}) || expired != 2 {
		t.Errorf("took %q, %d expired", got, expired)
	}
}

func TestADiskThatFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	add(t, s, "before")
	if err := s.newest().file.Close(); err != nil { // as if the device were gone
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), []byte("lost")); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("append: %v", err)
	}
	add(t, s, "after") // into a new segment
	if got := drained(t, s); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("got %q", got)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), []byte("lost")); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("append without a folder: %v", err)
	}
}

// damage is a segment of three records, and where each begins and ends.
func damage() (data []byte, contents []string, ends []int) {
	contents = []string{"first", strings.Repeat("second ", 5), "third"}
	for _, content := range contents {
		data = appendRecord(data, 1, []byte(content), time.UnixMilli(1_700_000_000_000))
		ends = append(ends, len(data))
	}
	return data, contents, ends
}

func contentsOf(records []record) []string {
	contents := []string{}
	for _, each := range records {
		contents = append(contents, string(each.content))
	}
	return contents
}

func TestEveryPrefix(t *testing.T) {
	t.Parallel()
	data, contents, ends := damage()
	for length := range len(data) + 1 {
		records, damaged := readSegment(1, data[:length])
		whole, at := 0, 0
		for whole < len(ends) && ends[whole] <= length {
			at = ends[whole]
			whole++
		}
		if got := contentsOf(records); !slices.Equal(got, contents[:whole]) {
			t.Fatalf("%d bytes: %q", length, got)
		}
		if torn := length > at; torn != (len(damaged) == 1) || torn && damaged[0] != (region{int64(at), int64(length - at)}) {
			t.Fatalf("%d bytes: reported %v, the last record ends at %d", length, damaged, at)
		}
	}
}

func TestEveryBit(t *testing.T) {
	t.Parallel()
	whole, contents, ends := damage()
	for bit := range len(whole) * 8 {
		data := slices.Clone(whole)
		data[bit/8] ^= 1 << (bit % 8)
		hit, _ := slices.BinarySearch(ends, bit/8+1)
		start := 0
		if hit > 0 {
			start = ends[hit-1]
		}
		records, damaged := readSegment(1, data)
		if got := contentsOf(records); !slices.Equal(got, slices.Delete(slices.Clone(contents), hit, hit+1)) {
			t.Fatalf("bit %d: %q", bit, got)
		}
		if len(damaged) != 1 || damaged[0] != (region{int64(start), int64(ends[hit] - start)}) {
			t.Fatalf("bit %d: reported %v", bit, damaged)
		}
	}
}

func TestADamagedSegmentIsReportedAndPutAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round := range maxDamaged + 2 { // a disk that goes bad does not fill up with what it spoiled
		first := open(t, Options{Dir: dir})
		add(t, first, "a", "b", "c")
		path := files(t, dir, "*.spool")[0]
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[headerSize+1+headerSize] ^= 1 // b
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var told []string
		second := open(t, Options{Dir: dir, Damaged: func(segment string, offset, length int64) {
			told = append(told, fmt.Sprintf("%s %d+%d", segment, offset, length))
		}})
		if got := drained(t, second); !slices.Equal(got, []string{"a", "c"}) {
			t.Errorf("got %q", got)
		}
		want := fmt.Sprintf("%s %d+%d", filepath.Base(path), headerSize+1, headerSize+1)
		if !slices.Equal(told, []string{want}) || second.Stats().Damaged != 1 {
			t.Errorf("round %d: told %q, want %q", round, told, want)
		}
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if aside := files(t, dir, "*.damaged"); len(aside) != maxDamaged {
		t.Errorf("%d files are put aside", len(aside))
	}
}

// TestARefusedRecordIsPutAside takes those behind it, and keeps it: under its old name it is there again.
func TestARefusedRecordIsPutAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	add(t, s, "a", "sealed", "c")
	path := files(t, dir, "*.spool")[0]
	var taken []string
	n, err := s.Drain(t.Context(), func(_ context.Context, content []byte) error {
		if string(content) == "sealed" {
			return fault.Newf(fault.Invalid, "there is no key for it")
		}
		taken = append(taken, string(content))
		return nil
	})
	if err != nil || n != 2 || !slices.Equal(taken, []string{"a", "c"}) || s.Stats().Records != 0 || s.Stats().Damaged != 1 {
		t.Fatal(n, taken, err, s.Stats())
	}
	if err := errors.Join(s.Close(), os.Rename(path+".damaged", path)); err != nil {
		t.Fatal(err)
	}
	if got := drained(t, open(t, Options{Dir: dir})); !slices.Equal(got, []string{"a", "sealed", "c"}) {
		t.Errorf("got %q", got)
	}
}

func TestARecordFromAnotherSegmentDoesNotCount(t *testing.T) {
	t.Parallel()
	data, _, _ := damage()
	if records, damaged := readSegment(2, data); len(records) != 0 || len(damaged) != 1 {
		t.Errorf("%d records, %v", len(records), damaged)
	}
}

// FuzzSegment changes a segment in any way. What is read then was written, in its order; every byte is in a record or reported.
func FuzzSegment(f *testing.F) {
	whole, contents, ends := damage()
	f.Add(uint16(0), uint16(0), []byte{})
	f.Add(uint16(10), uint16(3), []byte("xyz"))
	f.Add(uint16(ends[0]), uint16(ends[1]-ends[0]), []byte(nil))
	f.Add(uint16(5), uint16(0), whole)
	f.Fuzz(func(t *testing.T, at, cut uint16, put []byte) {
		start := min(int(at), len(whole))
		end := min(start+int(cut), len(whole))
		data := slices.Concat(whole[:start], put, whole[end:])
		records, damaged := readSegment(1, data)
		total := int64(0)
		for _, each := range records {
			if !slices.Contains(contents, string(each.content)) {
				t.Errorf("a record that nobody wrote: %q", each.content)
			}
			total += int64(headerSize + len(each.content))
		}
		for _, each := range damaged {
			total += each.length
		}
		if total != int64(len(data)) {
			t.Errorf("%d bytes of %d are accounted for", total, len(data))
		}
		// What the change did not touch is read, wherever it is now.
		untouched := []string{}
		for i, content := range contents {
			begin := ends[i] - headerSize - len(content)
			if ends[i] <= start || begin >= end {
				untouched = append(untouched, content)
			}
		}
		got := contentsOf(records)
		for _, content := range untouched {
			if !slices.Contains(got, content) {
				t.Errorf("%q is whole and was not read", content)
			}
		}
	})
}

// TestAFileThatWasTakenAway is told, and holds up nothing behind it.
func TestAFileThatWasTakenAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	told := 0
	s := open(t, Options{Dir: dir, SegmentBytes: 1, Damaged: func(string, int64, int64) { told++ }})
	add(t, s, "a", "b", "c")
	if err := os.Remove(files(t, dir, "*.spool")[1]); err != nil {
		t.Fatal(err)
	}
	if got := drained(t, s); !slices.Equal(got, []string{"a", "c"}) || told != 1 || s.Stats().Records != 0 {
		t.Errorf("got %q, told %d times", got, told)
	}
}
