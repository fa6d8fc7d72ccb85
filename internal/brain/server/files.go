package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/file"
	"hearth/internal/brain/resource"
)

func (s *server) fileRoutes() []route {
	const (
		files   = "/v1/files"
		oneFile = files + "/{file_id}"
	)
	return []route{
		{"POST", files, developer | item, s.uploadFile},
		{"GET", files, viewer, s.listFiles},
		{"GET", oneFile, viewer | item, s.getFile},
		{"GET", oneFile + "/content", viewer | item, s.downloadFile},
		{"DELETE", oneFile, developer | item, s.deleteFile},
	}
}

// formOverhead is what a form may have beside its file, in bytes.
const formOverhead = 64 << 10

// uploadFile stores the file of a form. One that a worker sends with the token
// of a session belongs to that session.
func (s *server) uploadFile(r *request) (any, error) {
	r.allow(file.MaxSize + formOverhead)
	form, err := r.form()
	if err != nil {
		return nil, err
	}
	var upload *file.Upload
	var life time.Duration
	err = form.each(func(part *multipart.Part) (err error) {
		switch name := part.FormName(); {
		case name == "file" && upload == nil:
			upload, err = s.Files.Receive(r.Context(), fileName(part), part.Header.Get("Content-Type"), part)
		case name == "expires_in_seconds" && life == 0:
			life, err = seconds(part)
		case name == "file", name == "expires_in_seconds":
			err = api.Invalid(name, "is given twice")
		default:
			err = api.Invalid(name, "is not a field of this form")
		}
		return err
	})
	if err == nil && upload == nil {
		err = api.Invalid("file", "is required")
	}
	if err != nil {
		if upload != nil {
			upload.Drop(r.Context())
		}
		return nil, err
	}
	upload.WorkspaceID = r.principal.WorkspaceID
	if r.principal.Kind == auth.KindSessionsToken {
		upload.SessionID = r.principal.Token.SessionID
	}
	return upload.Keep(r.Context(), life)
}

// fileName is the part's name as it was given, directories and all.
func fileName(part *multipart.Part) string {
	_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil {
		return ""
	}
	return params["filename"]
}

func seconds(part io.Reader) (time.Duration, error) {
	raw, err := io.ReadAll(io.LimitReader(part, 32))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(raw), 10, 32)
	if err != nil || n <= 0 {
		return 0, api.Invalid("expires_in_seconds", "must be a whole number of seconds, not %.32q", raw)
	}
	return time.Duration(n) * time.Second, nil
}

// multipartForm is a multipart body, read part by part.
type multipartForm struct {
	*multipart.Reader
	body *endWatch
}

func (r *request) form() (multipartForm, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch boundary := params["boundary"]; {
	case err != nil || kind != "multipart/form-data":
		return multipartForm{}, api.BadRequest("the body must be multipart/form-data")
	case boundary == "" || len(boundary) > maxBoundary:
		return multipartForm{}, api.BadRequest("the content type must name a boundary of 1 to %d characters", maxBoundary)
	default:
		body := &endWatch{Reader: r.Body, end: []byte("--" + boundary + "--")}
		return multipartForm{multipart.NewReader(body, boundary), body}, nil
	}
}

// maxBoundary bounds what is between the parts of a form, in bytes.
const maxBoundary = 70

// endWatch looks for what ends a form as it is read. The parts' reader does not
// tell a form that ends from one that is cut off in the headers of a part.
type endWatch struct {
	io.Reader
	end  []byte
	tail []byte // what was read last, one byte shorter than end
	seen bool
}

func (w *endWatch) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if !w.seen {
		keep := len(w.end) - 1
		last := append(w.tail, p[:min(n, keep)]...) // the end may have begun in what was read before
		w.seen = bytes.Contains(last, w.end) || bytes.Contains(p[:n], w.end)
		if n > keep {
			last = p[:n]
		}
		w.tail = append(w.tail[:0], last[max(0, len(last)-keep):]...)
	}
	return n, err
}

// maxParts is how many parts a form may have.
const maxParts = 20_000

func (f multipartForm) each(visit func(*multipart.Part) error) error {
	for n := 0; ; n++ {
		part, err := f.NextRawPart()
		switch {
		case err == io.EOF && f.body.seen:
			return nil
		case err == io.EOF:
			return badForm(io.ErrUnexpectedEOF, nil)
		case err != nil:
			return badForm(err, api.BadRequest("the form cannot be read: %v", err))
		case n == maxParts:
			return api.BadRequest("the form has more than %d parts", maxParts)
		}
		if err := checkText("the name of a field", part.FormName()); err != nil {
			return err
		}
		if err := visit(part); err != nil {
			return badForm(err, err)
		}
	}
}

// badForm tells what is wrong with the form from what went wrong here.
func badForm(err, otherwise error) error {
	var wire *api.Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &wire), errors.As(err, &tooLarge):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return api.BadRequest("the form ends too early")
	}
	return otherwise
}

func (s *server) listFiles(r *request) (any, error) {
	q := r.params()
	f := file.Filter{WorkspaceID: r.principal.WorkspaceID, SessionID: q.text("scope_id"), IDs: q.list("ids"), After: q.cursor("files").ID, Limit: q.limitTo(1000)}
	if q.err != nil {
		return nil, q.err
	}
	files, more, err := s.Files.List(r.Context(), f)
	return page(files, more, func(f api.File) cursor { return cursor{List: "files", ID: f.ID} }), err
}

// seesFile checks that a worker asks for a file of its session: one that is
// mounted in it, or one that it has made.
func (s *server) seesFile(r *request, mounted bool) (api.File, error) {
	id := r.PathValue("file_id")
	f, err := s.Files.Get(r.Context(), r.principal.WorkspaceID, id)
	if err != nil || r.principal.Kind != auth.KindSessionsToken {
		return f, err
	}
	session := r.principal.Token.SessionID
	if f.Scope != nil && f.Scope.ID == session {
		return f, nil
	}
	if mounted {
		resources, err := s.resources(r, session)
		if err != nil {
			return f, err
		}
		if slices.ContainsFunc(resources, func(one resource.Resource) bool { return one.FileID == id }) {
			return f, nil
		}
	}
	return f, api.NotFound("file", id)
}

func (s *server) getFile(r *request) (any, error) { return s.seesFile(r, true) }

func (s *server) downloadFile(r *request) (any, error) {
	if _, err := s.seesFile(r, true); err != nil {
		return nil, err
	}
	f, body, err := s.Files.Open(r.Context(), r.principal.WorkspaceID, r.PathValue("file_id"))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	h := r.w.Header()
	// Whatever it is, it is to be kept and not to be shown.
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": f.Filename}))
	h.Set("ETag", fmt.Sprintf("%q", f.ID))
	http.ServeContent(r.w, r.Request, "", f.CreatedAt, body)
	return written, nil
}

func (s *server) deleteFile(r *request) (any, error) {
	f, err := s.seesFile(r, false)
	if err != nil {
		return nil, err
	}
	return api.Deleted{ID: f.ID, Type: "file_deleted"}, s.Files.Delete(r.Context(), r.principal.WorkspaceID, f.ID)
}
