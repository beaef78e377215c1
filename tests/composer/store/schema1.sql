-- A store as version 0.1.0 wrote it (schema 1): one draft, and a run of two questions of which one is finished.
PRAGMA application_id = 1129268548;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE call (
        call_key TEXT PRIMARY KEY, expert TEXT NOT NULL, arm TEXT NOT NULL, role TEXT NOT NULL,
        request_sha TEXT NOT NULL, response TEXT NOT NULL, finish_reason TEXT NOT NULL, usage TEXT NOT NULL,
        logprobs TEXT, served_by TEXT NOT NULL, stop_detail TEXT NOT NULL, created TEXT NOT NULL, sha256 TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "call" VALUES('key','math','math','draft','6905e9bf986b67a4c21f93f2defa3df29254350783552b49aee7c483f63b77f0','4','stop','{"tokens_in":7,"tokens_out":2,"cached_in":3,"passes":2,"seconds":0.25,"cost":0.001}',NULL,'smollm','','2026-11-26T22:04:25+00:00','fd5695b7d8d3d42aeae10298f9385259ec04ab8a5fc6a6e4fabedd5b2331ec38');
CREATE TABLE question (
        run_id TEXT NOT NULL, custom_id TEXT NOT NULL, line_no INTEGER NOT NULL, input_sha TEXT NOT NULL,
        sha256 TEXT NOT NULL, PRIMARY KEY (run_id, custom_id)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "question" VALUES('run','q1',1,'input-1','e52f816b79f68a40020b02ae0a4fe630345af394f3071642f710969738eccf27');
INSERT INTO "question" VALUES('run','q2',2,'input-2','a2c1917085ea80ac380d0108322617660beb26c05ba37fbb2edec91c08bd9794');
CREATE TABLE result (
        run_id TEXT NOT NULL, custom_id TEXT NOT NULL, k INTEGER NOT NULL, status TEXT NOT NULL,
        payload TEXT NOT NULL, trace_id TEXT, sha256 TEXT NOT NULL, PRIMARY KEY (run_id, custom_id, k)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "result" VALUES('run','q1',0,'ok','{"trace_id":"t1","answer":"4"}','t1','549aed853c9a3893d6988ff656cdd493590de06489dc420f19f1a76d94fb62c9');
CREATE TABLE run (
        run_id TEXT PRIMARY KEY, config_sha TEXT NOT NULL, code_version TEXT NOT NULL, started TEXT NOT NULL,
        sha256 TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "run" VALUES('run','config','0.1.0','2026-11-26T22:04:25+00:00','2de74a156e19bd1b853796b435d4465dd225d3b05d29c186c46b8285f21057e8');
CREATE INDEX result_trace ON result (trace_id) WHERE trace_id IS NOT NULL;
COMMIT;
