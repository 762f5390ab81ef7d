package gitrepo

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// TestCachesOfOlderVersions: an older version may have stored upload-pack's capabilities as receive-pack's, without report-status.
// These are ignored, so that a push asks receive-pack again; everything else in the cache is used.
func TestCachesOfOlderVersions(t *testing.T) {
	t.Parallel()
	var meta cached
	if err := json.Unmarshal([]byte(`{"server":{"shallow":true,"sideband":true,"ofs_delta":true,"quiet":true,"receive":{"sideband":true}},"tips":[{"commit":"1a2485251c33a70432394c93fb89330ef214bfc9"}],"live":7}`), &meta); err != nil {
		t.Fatal(err)
	}
	if meta.Server.Receive != nil || !meta.Server.Shallow || !meta.Server.Sideband || len(meta.Tips) != 1 {
		t.Errorf("%+v", meta)
	}
}

// TestReceiverIsWhatItAdvertises: receive-pack's capabilities come from its own advertisement, in version 0 and 1.
func TestReceiverIsWhatItAdvertises(t *testing.T) {
	t.Parallel()
	const zero = "0000000000000000000000000000000000000000"
	for name, tc := range map[string]struct {
		phase  Phase
		answer []string // without the service's name; the flush follows
		want   *receiver
	}{
		"git's": {
			AdvertiseReceive,
			[]string{zero + " capabilities^{}\x00report-status report-status-v2 delete-refs side-band-64k quiet atomic ofs-delta object-format=sha1 agent=git/2.39.5\n"},
			&receiver{Report: true, Sideband: true, Quiet: true, Format: true, Agent: true},
		},
		"by version 1":       {AdvertiseReceive, []string{"version 1\n", zero + " capabilities^{}\x00report-status\n"}, &receiver{Report: true}},
		"an old one":         {AdvertiseReceive, []string{zero + " capabilities^{}\x00 report-status delete-refs\n"}, &receiver{Report: true}},
		"nothing":            {AdvertiseReceive, nil, &receiver{}},
		"of upload-pack":     {AdvertiseUpload, []string{zero + " capabilities^{}\x00side-band-64k ofs-delta report-status agent=git/2.39.5\n"}, nil},
		"of upload-pack, v2": {AdvertiseUpload, []string{"version 2\n", "agent=git/2.39.5\n"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := new(pktWriter)
			for _, line := range tc.answer {
				text.text(line)
			}
			text.flush()
			l, err := parseAdvertisement(newPktReader(text), tc.phase)
			if err != nil {
				t.Fatal(err)
			}
			if got := l.server.Receive; (got == nil) != (tc.want == nil) || got != nil && *got != *tc.want {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
		})
	}
	if _, err := parseAdvertisement(newPktReader(strings.NewReader("000eversion 2\n0000")), AdvertiseReceive); err == nil {
		t.Error("receive-pack has no version 2")
	}
}

// TestReasons: the kind of fault depends on the reason in the report and on the messages next to it, as git, its hooks and hosts word
// them. What a hook says never passes for a branch that moved, which would be retried.
func TestReasons(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reason, words string
		kind          fault.Kind
		public        string
	}{
		"git 2.39, a race":           {"failed to update ref", "error: cannot lock ref 'refs/heads/main': is at 1a but expected 2b\n", fault.Conflict, "moved"},
		"git 2.50, a race":           {"incorrect old value provided", "", fault.Conflict, "moved"},
		"git 2.50, another made it":  {"reference already exists", "", fault.Conflict, "moved"},
		"git 2.50, another removed":  {"reference does not exist", "", fault.Conflict, "moved"},
		"JGit":                       {"non-fast-forward", "", fault.Conflict, "moved"},
		"a hook that reads like one": {"pre-receive hook declined", "A pull request from this branch already exists\n", fault.Denied, "already exists"},
		"a hook of the ref":          {"hook declined", "error: hook declined to update refs/heads/main\n", fault.Denied, "rules refuse"},
		"a protected branch":         {"protected branch hook declined", "error: GH006: Protected branch update failed\n", fault.Denied, "GH006"},
		"Bitbucket, a restriction":   {"pre-receive hook declined", "Permission denied to update branch main.\n", fault.Denied, "Permission denied"},
		"Bitbucket, a size":          {"pre-receive hook declined", "Your push exceeds the repository size limit\n", fault.TooLarge, "size limit"},
		"a hidden ref":               {"deny updating a hidden ref", "", fault.Denied, "rules refuse"},
		"git's checks":               {"unpack error: index-pack abnormal exit", "fatal: fsck error in packed object\n", fault.Invalid, "content"},
		"a pack that cannot be read": {"unpack error: index-pack abnormal exit", "fatal: early EOF\n", fault.Internal, "unpack"},
		"an unknown reason":          {"x", "", fault.Internal, "(x)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := new(pktWriter)
			answer.text("\x02" + tc.words)
			report := new(pktWriter)
			if unpack, found := strings.CutPrefix(tc.reason, "unpack error: "); found {
				report.line("unpack %s", unpack)
				report.line("ng refs/heads/main unpacker error")
			} else {
				report.line("unpack ok")
				report.line("ng refs/heads/main %s", tc.reason)
			}
			report.flush()
			answer.text("\x01" + report.String())
			answer.flush()
			err := readReport(t.Context(), operation{verb: "push to", branch: "main"}, answer, receiver{Report: true, Sideband: true}, "refs/heads/main")
			if fault.KindOf(err) != tc.kind || !strings.Contains(fault.Public(err), tc.public) || isFinal(err) == (tc.kind == fault.Conflict) {
				t.Errorf("%s: %s", fault.KindOf(err), fault.Private(err))
			}
		})
	}
}

// endless is an answer that a server never ends.
type endless struct{ read int64 }

func (e *endless) Read(p []byte) (int, error) {
	const line = "000a\x02work\n"
	n := 0
	for n < len(p) {
		p[n] = line[(e.read+int64(n))%int64(len(line))]
		n++
	}
	e.read += int64(n)
	return n, nil
}

// TestEndlessProgress: a server that sends messages without end is read up to a bound, whatever became of the report.
func TestEndlessProgress(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]string{
		"before the report": "",
		"after the report":  "002e\x01000eunpack ok\n0017ok refs/heads/main\n0000",
	} {
		progress := new(endless)
		err := readReport(t.Context(), operation{verb: "push to", branch: "main"}, io.MultiReader(strings.NewReader(begin), progress), receiver{Report: true, Sideband: true}, "refs/heads/main")
		if fault.KindOf(err) != fault.Unavailable || progress.read > 2*maxAnswer {
			t.Errorf("%s: %v after %d bytes", name, err, progress.read)
		}
	}
}
